"""Mixed training pairs in batches: what they hold, for any number of ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers.datasets import write_karpathy
from tests.helpers.numbered_features import numbered_table

from ascl_lightning.data.augment import FuseMix, MixGen, PairMixing
from ascl_lightning.data.batch import ImageTextBatch, PixelSpec, TextSpec
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.data.stored_features import SplitFeatures, TextFeatures, TextRows
from ascl_lightning.errors import UserError

PIXELS = PixelSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def karpathy(root: Path, mixing: PairMixing) -> RetrievalDataModule:
    """5 images with 2 captions each."""
    write_karpathy(root, {"train": 5, "val": 4}, captions=2)
    specs = {"image_spec": PIXELS, "text_spec": TextSpec(max_length=8, vocab_size=50)}
    source, with_tokens = KarpathyJson("dataset_flickr8k.json"), not mixing.mixes_features
    datamodule = RetrievalDataModule(source, str(root), mixing=mixing, batch_size=4, with_tokens=with_tokens, **specs)
    datamodule.setup("fit")
    return datamodule


def mixed(root: Path, mixing: PairMixing) -> RetrievalDataModule:
    """Stored features, where they are mixed, hold the numbers of the rows."""
    datamodule = karpathy(root / "data", mixing)
    if mixing.mixes_features:
        none = np.zeros((10, 0), np.int64)
        texts = TextFeatures(numbered_table(root / "texts", 10), TextRows(np.arange(10), none, none, none))
        datamodule.view("train").use(SplitFeatures(numbered_table(root / "images", 5), texts))
    return datamodule


def epoch(datamodule: RetrievalDataModule, number: int) -> list[ImageTextBatch]:
    loader = datamodule.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(number)
    return list(loader)


def inputs_by_key(batches: list[ImageTextBatch]) -> dict[int, list[float]]:
    """Everything that the model reads of each pair."""
    found = {}
    for batch in batches:
        images, texts = batch.images, batch.texts
        pictures = images if isinstance(images, torch.Tensor) else images.pooled
        words = texts.input_ids if hasattr(texts, "input_ids") else texts.pooled
        for row, key in enumerate(batch.sampling_keys.tolist()):
            read = words[row][words[row] != 0] if words.dtype == torch.long else words[row]
            found[key] = [*pictures[row].flatten().tolist(), *read.tolist()]
    return found


def test_fusemix_interpolates_a_pair_with_another_one_with_one_share(tmp_path: Path) -> None:
    datamodule = mixed(tmp_path, FuseMix())
    shares = set()
    for number in range(3):
        loader = datamodule.train_dataloader()
        items = {item.key: item for item in (loader.dataset[index, number] for index in range(10))}
        for batch in epoch(datamodule, number):
            assert batch.images.tokens.shape[1] == batch.texts.tokens.shape[1] == 0
            for row, key in enumerate(batch.sampling_keys.tolist()):
                partner, image, text = items[key].partner, int(batch.image_ids[row]), int(batch.text_ids[row])
                assert text // 2 == image
                assert partner.text_row // 2 == partner.image_row
                share = partner.share
                shares.add(share)
                expected = share * image + (1 - share) * partner.image_row
                assert batch.images.pooled[row, 0].item() == pytest.approx(expected, abs=4e-3)
                expected = share * text + (1 - share) * partner.text_row
                assert batch.texts.pooled[row, 0].item() == pytest.approx(expected, abs=8e-3)
    assert len(shares) == 30


def test_mixgen_blends_pictures_and_joins_captions(tmp_path: Path) -> None:
    datamodule = mixed(tmp_path, MixGen(probability=0.5, weight=0.75))
    view, partners = datamodule.view("train"), []
    for number in range(3):
        dataset = datamodule.train_dataloader().dataset
        for index in range(10):
            item = dataset[index, number]
            image, caption = dataset.pairs.pair(index, number)
            text, picture = view.split.captions[image][caption], view.picture(image)
            partners.append(item.partner)
            if item.partner is not None:
                other = view.picture(item.partner.image_row)
                picture = np.rint(0.75 * picture + 0.25 * other).astype(np.uint8)
                text = f"{text} {view.split.captions[item.partner.image_row][item.partner.caption]}"
            assert np.array_equal(item.picture, picture)
            assert item.texts.text == text.lower().replace(" .", "")
    assert 5 < sum(partner is not None for partner in partners) < 25
    assert len({partner.image_row for partner in partners if partner is not None}) > 2


@pytest.mark.parametrize("mixing", [FuseMix(), MixGen(probability=0.5)])
def test_mixtures_are_the_same_on_any_number_of_ranks(tmp_path: Path, mixing: PairMixing) -> None:
    datamodule = mixed(tmp_path, mixing)
    alone = inputs_by_key(epoch(datamodule, 1))
    assert alone != inputs_by_key(epoch(datamodule, 2))
    ranks = {}
    for rank in range(2):
        datamodule._rank = lambda rank=rank: (rank, 2)
        ranks |= inputs_by_key(epoch(datamodule, 1))
    assert ranks == alone


def test_a_bad_picture_of_a_partner_is_replaced_and_counted(tmp_path: Path) -> None:
    datamodule = mixed(tmp_path, MixGen(probability=1.0))
    (tmp_path / "data" / "images" / "train_0003.jpg").write_bytes(b"")
    dataset = datamodule.train_dataloader().dataset
    items = [dataset[index, 0] for index in range(10)]
    assert all(3 not in (item.image_row, item.partner.image_row) for item in items)
    assert sum(bool(item.faults) for item in items) > 2


def test_mixing_needs_what_it_mixes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="freeze both towers"):
        epoch(karpathy(tmp_path, FuseMix()), 0)
