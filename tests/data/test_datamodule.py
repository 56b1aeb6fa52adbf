import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers.datasets import write_karpathy, write_picture
from tests.helpers.numbered_features import numbered_table

from ascl_lightning.data.augment.image_operations import Blur, CropPart, SideBySide
from ascl_lightning.data.augment.negatives import DropWord, ReplaceWord
from ascl_lightning.data.augment.positives import FirstHalf, JoinCaptions
from ascl_lightning.data.batch import PixelSpec, RegionSpec, TextSpec
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import JsonLines, KarpathyJson, Scenes
from ascl_lightning.data.stored_features import (
    SplitFeatures,
    TextFeatures,
    TextRows,
)
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.errors import UserError

PIXELS = PixelSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WORDS = TextSpec(max_length=8, vocab_size=50)


def karpathy(root: Path, captions: int | list[int] = 5, **arguments) -> RetrievalDataModule:
    write_karpathy(root, {"train": 5, "val": 4}, captions=captions)
    arguments = {"batch_size": 4, "image_spec": PIXELS, "text_spec": WORDS} | arguments
    datamodule = RetrievalDataModule(KarpathyJson("dataset_flickr8k.json"), str(root), **arguments)
    datamodule.setup("fit")
    return datamodule


def epoch(datamodule: RetrievalDataModule, number: int = 0):
    loader = datamodule.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(number)
    return list(loader)


def test_an_epoch_visits_every_pair_once(tmp_path):
    batches = epoch(karpathy(tmp_path, captions=[3, 0, 1, 7, 2]))
    rows = [row for batch in batches for row in batch.text_ids.tolist()]
    assert sorted(rows) == list(range(13))
    images = Counter(row for batch in batches for row in batch.image_ids.tolist())
    assert images == {0: 3, 2: 1, 3: 7, 4: 2}


def test_one_caption_per_image_is_drawn_each_epoch(tmp_path):
    datamodule = karpathy(tmp_path, captions_per_image=1)
    drawn = set()
    for number in range(12):
        batches = epoch(datamodule, number)
        assert sorted(row for batch in batches for row in batch.image_ids.tolist()) == [0, 1, 2, 3, 4]
        drawn |= {row for batch in batches for row in batch.text_ids.tolist()}
    # 25 captions, each drawn with chance 1/5 an epoch: fewer than 15 after 12 epochs has a chance below 1e-5
    assert len(drawn) >= 15


@pytest.mark.parametrize("augment", [False, True])
def test_captions_of_an_image_share_a_batch(tmp_path, augment):
    datamodule = karpathy(
        tmp_path, captions=[3, 0, 1, 7, 2], captions_per_image=2, captions_together=True, augment=augment
    )
    batches = epoch(datamodule, 3)
    assert len(batches) == datamodule.num_training_batches() == 2
    assert sorted(row for batch in batches for row in batch.image_ids.tolist()) == [0, 0, 2, 2, 3, 3, 4, 4]
    alone = {
        row: captions
        for batch in epoch(karpathy(tmp_path, captions=[3, 0, 1, 7, 2], captions_per_image=2), 3)
        for row, captions in zip(batch.text_ids.tolist(), batch.image_ids.tolist(), strict=True)
    }
    for batch in batches:
        ids = batch.image_ids.tolist()
        assert ids[0] == ids[1] != ids[2] == ids[3]
        # the captions are those that the epoch draws anyway
        assert all(alone[row] == image for row, image in zip(batch.text_ids.tolist(), ids, strict=True))
        if augment:
            assert batch.image_places is None
            assert len(batch.images) == 4
        else:
            assert batch.image_places.tolist() == [0, 0, 1, 1]
            pictures = [datamodule.view("train").picture(row) for row in (ids[0], ids[2])]
            assert np.array_equal(batch.images.numpy(), np.stack(pictures))


@pytest.mark.parametrize("wrong", [{}, {"captions_per_image": 1}, {"captions_per_image": 3}])
def test_captions_together_need_room(tmp_path, wrong):
    with pytest.raises(UserError, match="from 2 to half of batch_size, 4"):
        karpathy(tmp_path, captions_together=True, **wrong)


def test_rows_of_a_batch_belong_together(tmp_path):
    datamodule = karpathy(tmp_path, positives=[JoinCaptions(), FirstHalf()], negatives=[DropWord(), ReplaceWord()])
    split = datamodule.view("train").split
    captions = [caption for of_image in split.captions for caption in of_image]
    for batch in epoch(datamodule):
        assert torch.equal(batch.image_ids, batch.text_image_ids)
        assert batch.image_ids.tolist() == [row // 5 for row in batch.text_ids.tolist()]
        assert batch.images.shape == (len(batch.image_ids), 3, 16, 16)
        for made in (batch.negatives.texts, batch.positives.texts, batch.positive_negatives.texts):
            assert len(made.input_ids) == len(batch.image_ids)
        for row, text in enumerate(batch.text_ids.tolist()):
            words = [datamodule.vocabulary.id_of(word) for word in captions[text].lower().strip(" .").split()][:8]
            assert batch.texts.input_ids[row][batch.texts.attention_mask[row]].tolist() == words


def test_draws_depend_on_seed_epoch_and_index_alone(tmp_path):
    arguments = {"positives": [JoinCaptions(), FirstHalf()], "negatives": [DropWord()], "augment": True}
    alone = {key: value for batch in epoch(karpathy(tmp_path, **arguments), 3) for key, value in by_key(batch)}
    batched = {
        key: value for batch in epoch(karpathy(tmp_path, **arguments, batch_size=1), 3) for key, value in by_key(batch)
    }
    assert alone.keys() == batched.keys()
    assert all(torch.equal(alone[key], batched[key]) for key in alone)
    other = {key for batch in epoch(karpathy(tmp_path, **arguments, seed=1), 3) for key, _ in by_key(batch)}
    assert not other & alone.keys()


def by_key(batch):
    """Each row's pixels and its T+ without padding, by the row's key."""
    for row, key in enumerate(batch.sampling_keys.tolist()):
        words = batch.positives.texts.input_ids[row][batch.positives.texts.attention_mask[row]]
        yield key, torch.cat([batch.images[row].flatten().long(), words])


def test_worker_processes_change_nothing(tmp_path):
    arguments = {"positives": [JoinCaptions()], "negatives": [DropWord()]}
    here = epoch(karpathy(tmp_path, **arguments))
    there = epoch(karpathy(tmp_path, **arguments, num_workers=1))
    assert pickle.dumps([b.positives.texts.input_ids.tolist() for b in here]) == pickle.dumps(
        [b.positives.texts.input_ids.tolist() for b in there]
    )
    assert all(torch.equal(a.images, b.images) for a, b in zip(here, there, strict=True))


def test_loaders_leave_the_global_generator_alone(tmp_path):
    datamodule = karpathy(tmp_path)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch(datamodule)
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_brings_every_image_with_all_its_captions(tmp_path):
    datamodule = karpathy(tmp_path, captions=[2, 0, 1, 3, 5, 0, 4, 1], eval_batch_size=3)
    split = datamodule.view("val").split
    batches = list(datamodule.val_dataloader())
    assert [row for batch in batches for row in batch.image_ids.tolist()] == [0, 1, 2, 3]
    expected = [image for image, captions in enumerate(split.captions) for _ in captions]
    assert [row for batch in batches for row in batch.text_image_ids.tolist()] == expected
    assert [row for batch in batches for row in batch.text_ids.tolist()] == list(range(len(expected)))


def test_a_sample_is_the_same_for_any_number_of_processes(tmp_path):
    datamodule = karpathy(tmp_path, eval_batch_size=2)
    total = len(datamodule.view("train").split)

    def rows(count: int, rank: int = 0, world_size: int = 1) -> list[int]:
        datamodule._rank = lambda: (rank, world_size)
        return [row for batch in datamodule.sample_dataloader("train", count) for row in batch.image_ids.tolist()]

    alone = rows(3)
    assert len(set(alone)) == 3
    assert sorted(rows(3, 0, 2) + rows(3, 1, 2)) == sorted(alone)
    assert sorted(rows(total + 5)) == list(range(total))


def test_images_without_captions_can_fill_a_batch(tmp_path):
    datamodule = karpathy(tmp_path, captions=[1, 1, 1, 1, 1, 0, 0, 0, 2], eval_batch_size=1)
    sizes = [len(batch.texts.input_ids) for batch in datamodule.val_dataloader()]
    assert sizes == [0, 0, 0, 2]


def test_fewer_images_than_processes_are_refused(tmp_path):
    datamodule = karpathy(tmp_path)
    images = len(datamodule.view("val").split)
    datamodule._rank = lambda: (0, images)
    assert len(datamodule.val_dataloader()) == 1
    datamodule._rank = lambda: (0, images + 1)
    with pytest.raises(UserError, match=f"the split 'val' has {images} images, too few for {images + 1} processes"):
        datamodule.val_dataloader()


def test_texts_beyond_the_limit_are_counted(tmp_path):
    # captions have 8 words ("a red dog runs beside the boat number 3") or more: 9 or 10 do not fit into 8
    datamodule = karpathy(tmp_path)
    captions = [caption for of_image in datamodule.view("train").split.captions for caption in of_image]
    too_long = sum(len(caption.strip(" .").split()) > 8 for caption in captions)
    assert too_long > 0
    assert sum(batch.num_truncated for batch in epoch(datamodule)) == too_long


def test_a_negative_that_differs_in_no_token_is_not_valid(tmp_path):
    # every caption ends in a word of its own ("... number 3"), and two words fit: what is dropped beyond is not seen
    datamodule = karpathy(tmp_path, negatives=[DropWord()], text_spec=TextSpec(max_length=2, vocab_size=50))
    same = []
    for batch in epoch(datamodule):
        same.append((batch.negatives.texts.input_ids == batch.texts.input_ids).all(dim=1))
        assert torch.equal(batch.negatives.valid, ~same[-1])
    # one of eight or more words is dropped, and only the first two of the rest are seen
    assert torch.cat(same).float().mean() > 0.5


@pytest.mark.parametrize("split", ["train", "val"])
def test_region_features_are_extracted_before_training(tmp_path, split):
    write_karpathy(tmp_path, {"train": 2, "val": 2}, folder="regions", regions=RegionSpec(3, 4))
    source = KarpathyJson("dataset_flickr8k.json", images=None)
    datamodule = RetrievalDataModule(source, str(tmp_path), image_spec=RegionSpec(3, 4), text_spec=WORDS)
    datamodule.setup("fit")
    with pytest.raises(UserError, match=r"takes region features: run `ascl extract --regions"):
        datamodule.train_dataloader() if split == "train" else datamodule.val_dataloader()


@pytest.mark.parametrize("with_tokens", [True, False])
def test_stored_features_take_the_place_of_pictures_and_captions(tmp_path, with_tokens):
    datamodule = karpathy(tmp_path / "data", captions=2, with_tokens=with_tokens)
    view = datamodule.view("train")
    none = np.zeros((10, 0), np.int64)
    texts = TextFeatures(numbered_table(tmp_path / "texts", 10), TextRows(np.arange(10), none, none, none))
    view.use(SplitFeatures(numbered_table(tmp_path / "images", 5), texts))
    for batch in epoch(datamodule):
        assert {batch.images.tokens.shape[1], batch.texts.tokens.shape[1]} == {int(with_tokens)}
        assert batch.images.pooled[:, 0].tolist() == batch.image_ids.tolist()
        assert batch.texts.pooled[:, 0].tolist() == batch.text_ids.tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_pictures_are_replaced_in_training(tmp_path, workers):
    datamodule = karpathy(tmp_path, captions=2, num_workers=workers, max_bad_share=0.5, augment=True)
    bad = tmp_path / "images" / "train_0003.jpg"
    bad.write_bytes(b"<html>gone</html>")
    whole, again = epoch(datamodule), epoch(datamodule)
    assert [len(batch.image_ids) for batch in whole] == [3, 3, 4]
    rows = Counter(row for batch in whole for row in batch.image_ids.tolist())
    assert 3 not in rows
    assert rows.total() == 10
    faults = [fault for batch in whole for fault in batch.faults]
    assert faults == [f"{bad}: not a picture of a known kind (JPEG, PNG, WEBP, GIF, BMP, TIFF)"] * 2
    assert [batch.image_ids.tolist() for batch in whole] == [batch.image_ids.tolist() for batch in again]


def test_too_many_bad_pictures_end_the_training(tmp_path, caplog):
    datamodule = karpathy(tmp_path, captions=1, max_bad_share=0.2, batch_size=1)
    bad = [tmp_path / "images" / f"train_000{i}.jpg" for i in (1, 4)]
    for path in bad:
        path.write_bytes(b"")
    batches = [batch for _ in range(2) for batch in datamodule.train_dataloader()]
    message = r"2 of 5 training pictures cannot be read, more than max_bad_share 0\.2"
    with pytest.raises(UserError, match=message) as caught:
        feed(datamodule, batches)
    assert all(str(path) in str(caught.value) for path in bad)
    assert caplog.text.count("another takes its place") == 2


def feed(datamodule: RetrievalDataModule, batches) -> None:
    """What a trainer does with batches before the model sees them."""
    for batch in batches:
        datamodule.on_before_batch_transfer(batch, 0)


def test_pictures_that_cannot_be_read_at_all_are_an_error(tmp_path):
    datamodule = karpathy(tmp_path, captions=1)
    for path in (tmp_path / "images").glob("train_*"):
        path.unlink()
    with pytest.raises(UserError, match="20 pictures in a row cannot be read; run `ascl check`"):
        epoch(datamodule)


def test_evaluation_names_every_bad_picture(tmp_path):
    datamodule = karpathy(tmp_path, captions=1, eval_batch_size=1)
    bad = [tmp_path / "images" / f"val_000{i}.jpg" for i in (6, 8)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "images" / "train_0000.jpg").unlink()
    datamodule = RetrievalDataModule(
        datamodule.source, str(tmp_path), image_spec=PIXELS, text_spec=WORDS, eval_batch_size=1
    )
    datamodule.vocabulary = Vocabulary(("a",))
    datamodule.setup("validate")
    with pytest.raises(UserError, match="evaluation needs every picture, and 2 cannot be read") as caught:
        feed(datamodule, datamodule.val_dataloader())
    assert all(str(path) in str(caught.value) for path in bad)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share):
    with pytest.raises(UserError, match="max_bad_share"):
        RetrievalDataModule(Scenes(), max_bad_share=share)


def test_image_operations_change_their_share_of_training_pictures_alone(tmp_path):
    plain = karpathy(tmp_path, captions=1, batch_size=5)
    (before,) = epoch(plain)
    unchanged = 0
    for number in range(40):
        changed = karpathy_with(plain, [CropPart(0.2), SideBySide(0.2), Blur(0.2)])
        (batch,) = epoch(changed, number)
        pictures = dict(zip(batch.image_ids.tolist(), batch.images, strict=True))
        assert sorted(pictures) == [0, 1, 2, 3, 4]
        for row, picture in zip(before.image_ids.tolist(), before.images, strict=True):
            unchanged += torch.equal(picture, pictures[row])
    # 200 pictures, each left alone with chance 0.4: five standard deviations around 80
    assert abs(unchanged - 80) < 35
    (validation,) = changed.val_dataloader()
    (expected,) = plain.val_dataloader()
    assert torch.equal(validation.images, expected.images)
    with pytest.raises(UserError, match=r"sum to 1\.2"):
        karpathy_with(plain, [CropPart(0.6), Blur(0.6)])


def karpathy_with(plain: RetrievalDataModule, operations) -> RetrievalDataModule:
    datamodule = RetrievalDataModule(
        plain.source, str(plain.root), image_operations=operations, batch_size=5, image_spec=PIXELS, text_spec=WORDS
    )
    datamodule.setup("fit")
    return datamodule


def test_buckets_save_padding_and_lose_nothing(tmp_path):
    lengths = [1, 9, 2, 8, 3, 7, 1, 9, 2, 8, 3, 7]
    arguments = {"batch_size": 2, "text_spec": TextSpec(max_length=30, vocab_size=50)}
    source = JsonLines({"train": "train.jsonl", "val": "train.jsonl"})
    write_picture(tmp_path / "a.png", 0)
    rows = [{"image": "a.png", "image_id": str(i), "captions": ["word " * n]} for i, n in enumerate(lengths)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    padding = {}
    for bucketed in (False, True):
        datamodule = RetrievalDataModule(
            source, str(tmp_path), bucket_by_length=bucketed, image_spec=PIXELS, **arguments
        )
        datamodule.setup("fit")
        batches = epoch(datamodule)
        assert sorted(row for batch in batches for row in batch.image_ids.tolist()) == list(range(12))
        padding[bucketed] = sum((~batch.texts.attention_mask).sum().item() for batch in batches)
    assert padding[True] == 0 < padding[False]


def test_the_vocabulary_is_of_the_training_captions_and_travels(tmp_path):
    datamodule = karpathy(tmp_path, captions=1)
    trained = {word for (caption,) in datamodule.view("train").split.captions for word in caption.lower().split()}
    assert set(datamodule.vocabulary.words) == trained - {"."}
    other = RetrievalDataModule(Scenes(num_test=2), image_spec=PIXELS, text_spec=WORDS)
    other.setup("test")
    other.load_state_dict(datamodule.state_dict())
    assert other.vocabulary == datamodule.vocabulary
    assert list(other.test_dataloader())


def test_a_state_is_plain_enough_for_weights_only_loading(tmp_path):
    torch.save(karpathy(tmp_path).state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["vocabulary"]


@pytest.mark.parametrize(("batches", "steps", "world_size"), [(2, 8, 1), (2, 7, 2)])
def test_resuming_inside_an_epoch_with_other_batches_is_refused(tmp_path, batches, steps, world_size):
    datamodule = karpathy(tmp_path)  # 25 pairs in batches of 4 or less: 7
    position = {"epoch": 0, "batches": batches, "batches_of_epoch": steps, "world_size": world_size}
    datamodule.load_state_dict({"position": position})
    with pytest.raises(UserError, match=f"inside an epoch of {steps} batches on {world_size} processes"):
        datamodule.train_dataloader()
    # at the end of an epoch nothing depends on how it was shared out
    datamodule.load_state_dict({"position": position | {"epoch": 1, "batches": 0}})
    assert len(list(datamodule.train_dataloader())) == 7


def test_without_a_vocabulary_the_error_says_what_to_give():
    datamodule = RetrievalDataModule(Scenes(num_test=2), image_spec=PIXELS, text_spec=WORDS)
    datamodule.setup("test")
    with pytest.raises(UserError, match="--ckpt_path"):
        datamodule.test_dataloader()


def test_a_missing_folder_is_named_before_any_file_is_read():
    with pytest.raises(UserError, match="there is no folder 'nowhere'"):
        RetrievalDataModule(KarpathyJson("x.json"), "nowhere")


def test_the_ceiling_is_the_source_s():
    source = Scenes(num_test=20)
    assert RetrievalDataModule(source).ceiling("test") == source.ceiling(None, "test")


def test_one_training_image_is_refused(tmp_path):
    write_karpathy(tmp_path, {"train": 1, "val": 4}, captions=5)
    source = KarpathyJson("dataset_flickr8k.json")
    datamodule = RetrievalDataModule(source, str(tmp_path), image_spec=PIXELS, text_spec=WORDS)
    with pytest.raises(UserError, match="the training split has 1 image"):
        datamodule.setup("fit")
