import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import FROZEN, MeanColour, WordTable
from tests.helpers.hub_models import write_bert
from tests.helpers.region_layouts import LAYOUTS

from ascl_lightning.data import stored_features as storage
from ascl_lightning.data.augment.negatives import DropWord, ReplaceWord, ShuffleWords
from ascl_lightning.data.augment.positives import AppendOtherCaption, FirstHalf, JoinCaptions, RandomSpan
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.regions import RegionFolder
from ascl_lightning.data.sources import ExtractedFeatures, KarpathyJson
from ascl_lightning.data.stored_features import FeatureTable, Manifest
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.models import FusedSimilarity
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.timm_backbone import TimmImageEncoder
from ascl_lightning.models.towers.transformers_text import TransformersTextEncoder
from ascl_lightning.training.extraction import SplitExtraction, fingerprint

POSITIVES = [JoinCaptions(), AppendOtherCaption(), FirstHalf(), RandomSpan()]
NEGATIVES = [ShuffleWords(), DropWord(), ReplaceWord()]


@pytest.fixture
def model() -> ImageTextModel:
    torch.manual_seed(0)
    return ImageTextModel(MeanColour(tuning=FROZEN), WordTable(tuning=FROZEN), FusedSimilarity(4, num_heads=2)).eval()


def data(root: Path, model: ImageTextModel, source=None, folder: str = "data", **arguments) -> RetrievalDataModule:
    if not (root / "data").is_dir():
        write_karpathy(root / "data", {"train": 10, "val": 4}, captions=[2, 3, 0, 1])
    arguments = {"positives": POSITIVES, "negatives": NEGATIVES, "batch_size": 4} | arguments
    datamodule = RetrievalDataModule(
        source or KarpathyJson("dataset_flickr8k.json"),
        str(root / folder),
        image_spec=model.image_encoder.spec,
        text_spec=model.text_encoder.spec,
        **arguments,
    )
    datamodule.setup("fit")
    return datamodule


def extract(root: Path, model: ImageTextModel, variants: int = 2, **arguments) -> None:
    datamodule = data(root, model, **arguments)
    for split in ("train", "val"):
        made = variants if split == "train" else 0
        extraction = SplitExtraction(model, datamodule, split, root / "out" / split, True, True, made)
        extraction.prepare()
        for job in extraction.jobs():
            extraction.run(job, torch.device("cpu"))


@pytest.mark.parametrize("layout", ["npy", "hdf5_positions", "tsv"])
def test_region_features_are_stored_bit_by_bit(tmp_path, layout):
    """The first 3 regions of each image and their mean."""
    write_karpathy(tmp_path / "data", {"train": 3, "val": 1}, captions=1)
    names = [f"train_{number:04d}" for number in range(3)]
    content = {name: np.random.default_rng(i).random((2 + i, 4), np.float32) for i, name in enumerate(names)}
    store = LAYOUTS[layout](tmp_path / "data", content)
    model = ImageTextModel(RegionEncoder(3, 4), WordTable(), FusedSimilarity(4, num_heads=2))
    datamodule = data(tmp_path, model, KarpathyJson("dataset_flickr8k.json", images=None))
    regions = store.open(tmp_path / "data")
    out = tmp_path / "out" / "train"
    extraction = SplitExtraction(model, datamodule, "train", out, True, False, dtype="float32", regions=regions)
    extraction.prepare()
    for job in extraction.jobs():
        extraction.run(job, torch.device("cpu"))
    stored = ExtractedFeatures().read(tmp_path / "out", "train").features.images.gather(torch.arange(3))
    for row, name in enumerate(names):
        kept = content[name][:3]
        np.testing.assert_array_equal(stored.tokens[row][stored.mask[row]].numpy(), kept, strict=True)
        np.testing.assert_array_equal(stored.pooled[row].numpy(), kept.mean(axis=0), strict=True)


@pytest.mark.parametrize("encoder", [RegionEncoder(3, 4), MeanColour(tuning=FROZEN)])
def test_regions_are_required_by_region_encoders_and_refused_by_others(tmp_path, encoder):
    model = ImageTextModel(encoder, WordTable(), FusedSimilarity(4, num_heads=2))
    regions = None if isinstance(encoder, RegionEncoder) else RegionFolder(".").open(tmp_path)
    with pytest.raises(UserError, match="set --regions for an image encoder that takes region features"):
        SplitExtraction(model, data(tmp_path, model), "train", tmp_path / "out", True, False, regions=regions)


def epoch(datamodule: RetrievalDataModule, number: int):
    loader = datamodule.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(number)
    return list(loader)


def test_extracted_features_score_like_pictures_and_captions(tmp_path, model):
    extract(tmp_path, model)
    stored = data(tmp_path, model, ExtractedFeatures(), "out")
    stored.vocabulary = None  # captions are not tokenised
    (raw,), (kept,) = data(tmp_path, model).val_dataloader(), stored_batches(stored)
    with torch.no_grad():
        expected = model.score(model.encode_images(raw.images), model.encode_texts(raw.texts))
        found = model.score(model.encode_images(kept.images), model.encode_texts(kept.texts))
    assert torch.equal(raw.text_image_ids, kept.text_image_ids)
    # float16 keeps 11 bits
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    assert not torch.equal(found, expected)


def stored_batches(datamodule: RetrievalDataModule):
    datamodule.prepare_texts()
    return list(datamodule.val_dataloader())


def test_made_texts_are_those_of_the_operations(tmp_path, model):
    """Variant v of T+, T- and (T+)- equals the encoded texts that the sampler makes in epoch v."""
    extract(tmp_path, model)
    stored, raw = data(tmp_path, model, ExtractedFeatures(), "out"), data(tmp_path, model)
    captions = raw.view("train").split.captions
    places = [(image, place) for image, texts in enumerate(captions) for place in range(len(texts))]
    for number in range(3):
        for batch in epoch(stored, number):
            for row, text in enumerate(batch.text_ids.tolist()):
                image, place = places[text]
                sample = raw.text_maker().make(captions[image], place, image, number % 2, text)
                assert_features(model, raw, batch.texts, row, clean_caption(captions[image][place]))
                assert_features(model, raw, batch.positives.texts, row, sample.positive.text)
                if batch.negatives.valid[row]:
                    assert_features(model, raw, batch.negatives.texts, row, sample.negative.text)
                if batch.positive_negatives.valid[row]:
                    assert_features(model, raw, batch.positive_negatives.texts, row, sample.positive_negative.text)


def assert_features(model, datamodule, found, row, text):
    with torch.no_grad():
        expected = model.text_encoder(datamodule.tokenizer()([text])[0])
    length = int(found.mask[row].sum())
    assert length == int(expected.mask.sum())
    torch.testing.assert_close(found.tokens[row, :length], expected.tokens[0], rtol=1e-3, atol=1e-3)


def test_a_negative_with_the_tokens_of_its_text_does_not_count(tmp_path, model):
    """The tokenizer keeps two words, and ignores differences after them."""
    model.text_encoder.spec = type(model.text_encoder.spec)(max_length=2, vocab_size=50)
    extract(tmp_path, model, negatives=[DropWord()])
    valid = [
        batch.negatives.valid
        for batch in epoch(data(tmp_path, model, ExtractedFeatures(), "out", negatives=[DropWord()]), 0)
    ]
    assert 0 < torch.cat(valid).float().mean() < 0.8


def test_the_same_text_is_encoded_once(tmp_path, model):
    extract(tmp_path, model, variants=5, positives=[FirstHalf()], negatives=[])
    table = FeatureTable(tmp_path / "out" / "train" / "texts")
    captions = {clean_caption(text) for texts in data(tmp_path, model).view("train").split.captions for text in texts}
    halves = {" ".join(text.split()[: len(text.split()) // 2]) for text in captions}
    assert len(table) == len(captions | halves)


def test_unreadable_training_pictures_are_skipped(tmp_path, model):
    data(tmp_path, model)
    (tmp_path / "data" / "images" / "train_0001.jpg").write_bytes(b"no picture")
    extract(tmp_path, model)
    split = ExtractedFeatures().read(tmp_path / "out", "train")
    assert split.captions[1] == ()
    assert len(split) == 10
    rows = {
        row for batch in epoch(data(tmp_path, model, ExtractedFeatures(), "out"), 0) for row in batch.image_ids.tolist()
    }
    assert rows == {0, 3, 4, 5, 7, 8, 9}
    # the captions of the other images keep their own features
    texts = [clean_caption(text) for of_image in split.captions for text in of_image]
    raw, found = data(tmp_path, model), split.features.texts.captions(torch.arange(len(texts)))
    for row, text in enumerate(texts):
        assert_features(model, raw, found, row, text)
    (tmp_path / "data" / "images" / "val_0011.jpg").write_bytes(b"no picture")
    shutil.rmtree(tmp_path / "out" / "val")
    with pytest.raises(UserError, match=r"1 images cannot be read: .*val_0011\.jpg"):
        extract(tmp_path, model)


def test_another_seed_takes_the_stored_texts_in_another_order(tmp_path, model):
    extract(tmp_path, model)
    first, other, raw = (
        data(tmp_path, model, ExtractedFeatures(), "out"),
        data(tmp_path, model, ExtractedFeatures(), "out", seed=7),
        data(tmp_path, model),
    )
    orders = [[row for batch in epoch(of, 0) for row in batch.text_ids.tolist()] for of in (first, other)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]
    dataset = other.train_dataloader().dataset
    for row in range(len(orders[0])):
        item = dataset[row, 0]
        sample, captions = other.texts_of(item), raw.view("train").split.captions[item.image_row]
        place = item.text_row - raw.view("train").text_rows(item.image_row).start
        # the texts of the extraction's seed, 0
        assert sample == raw.text_maker().make(captions, place, item.image_row, 0, item.text_row)
        found = other.view("train").features.texts.made("positives", torch.tensor([item.text_row]), 0)
        assert_features(model, raw, found.texts, 0, sample.positive.text)


def test_features_of_other_operations_are_refused(tmp_path, model):
    extract(tmp_path, model)
    with pytest.raises(UserError, match="other operations than those of the config"):
        data(tmp_path, model, ExtractedFeatures(), "out", negatives=[DropWord()])
    plain = data(tmp_path, model, ExtractedFeatures(), "out", positives=[], negatives=[])
    for batch in epoch(plain, 0):
        assert (batch.positives, batch.negatives, batch.positive_negatives) == (None, None, None)
    with pytest.raises(UserError, match="remove augment"):
        data(tmp_path, model, ExtractedFeatures(), "out", augment=True)


def test_a_split_that_was_not_extracted_is_named(tmp_path, model):
    extract(tmp_path, model)
    with pytest.raises(UserError, match=r"there is no split 'test'; .* train \(10\), val \(4\)"):
        ExtractedFeatures().read(tmp_path / "out", "test")


def test_a_fingerprint_depends_on_class_format_and_weights():
    torch.manual_seed(0)
    first, same = MeanColour(tuning=FROZEN), MeanColour()
    same.load_state_dict(first.state_dict())
    other = MeanColour(tuning=FROZEN)
    next(iter(other.parameters())).data.add_(1e-3)
    assert fingerprint(first) == fingerprint(same)
    assert len({fingerprint(first), fingerprint(other), fingerprint(WordTable(tuning=FROZEN))}) == 3


def test_a_fingerprint_depends_on_inner_layers_unless_activations_below_them_are_stored():
    def hash_of(layers: list[str], cut: str | None = None) -> str:
        torch.manual_seed(0)
        return fingerprint(TimmImageEncoder("test_resnet", image_size=64, inner_layers=layers, cut=cut))

    assert len({hash_of([]), hash_of(["layer2"]), hash_of(["layer2", "layer3"])}) == 3
    assert hash_of(["layer2", "layer3"]) == hash_of(["layer3", "layer2"])
    assert hash_of([], "layer3") == hash_of(["layer3"], "layer3") != hash_of([])


def test_a_fingerprint_depends_on_the_grid_unless_activations_below_it_are_stored():
    def hash_of(side: int | None, cut: str | None = None) -> str:
        torch.manual_seed(0)
        return fingerprint(TimmImageEncoder("test_resnet", image_size=64, token_grid=side, cut=cut))

    assert len({hash_of(None), hash_of(1), hash_of(2)}) == 3
    assert hash_of(None, "layer3") == hash_of(2, "layer3")


def test_a_fingerprint_depends_on_what_makes_words_and_the_global_vector_unless_they_are_above_a_cut(tmp_path):
    write_bert(tmp_path)

    def hash_of(**arguments: object) -> str:
        return fingerprint(TransformersTextEncoder(str(tmp_path), **arguments))

    settings = [{}, {"pooling": "cls"}, {"special_tokens_are_words": False}]
    settings.append(settings[1] | settings[2])
    assert len({hash_of(**each) for each in settings}) == 4
    assert len({hash_of(**each, cut=1) for each in settings}) == 1


def test_existing_shards_are_not_encoded_again(tmp_path, model, monkeypatch):
    monkeypatch.setattr(storage, "SHARD_ROWS", 4)
    extract(tmp_path, model)
    seen = model.image_encoder.pictures_seen, model.text_encoder.texts_seen
    before = contents(tmp_path / "out")
    extract(tmp_path, model)
    assert (model.image_encoder.pictures_seen, model.text_encoder.texts_seen) == seen
    shutil.rmtree(tmp_path / "out" / "train" / "images" / "00001")
    extract(tmp_path, model)
    assert model.image_encoder.pictures_seen == seen[0] + 4
    assert contents(tmp_path / "out") == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CONFIG = Path(__file__).parents[1] / "configs" / "tiny.yaml"


def command(root: Path, out: str, *flags: str) -> list[str]:
    source = '{"class_path": "KarpathyJson", "init_args": {"annotations": "dataset_flickr8k.json"}}'
    return [
        *(sys.executable, "-c", _SMALL_SHARDS, "extract", "--config", str(CONFIG)),
        *("--data.source", source, "--data.root", str(root / "data"), "--out", str(root / out)),
        *("--model.text_encoder.init_args.tuning.frozen", "true", "--trainer.accelerator", "cpu"),
        *flags,
    ]


# many shards of eight rows, with a pause so that a kill can hit a shard half-way
_SMALL_SHARDS = """
import sys, time
from ascl_lightning.data import stored_features as features
features.SHARD_ROWS = 8
from ascl_lightning.training import extraction
write = extraction.write_shard
extraction.write_shard = lambda *args: (time.sleep(0.02), write(*args))
from ascl_lightning.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_the_shards_are_the_same(tmp_path):
    write_karpathy(tmp_path / "data", {"train": 60, "val": 12}, captions=3)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path, "whole"), check=True, env=environment, capture_output=True)
    expected = contents(tmp_path / "whole")
    shards = len(list((tmp_path / "whole").glob("*/*/0*")))
    assert shards > 20
    for part in (2, 9, 17):
        process = subprocess.Popen(command(tmp_path, "killed"), env=environment, stdout=-3, stderr=-3)
        while process.poll() is None and len(list((tmp_path / "killed").glob("*/*/0????"))) < part:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list((tmp_path / "killed").glob("*/*/0????"))) < shards
    subprocess.run(command(tmp_path, "killed"), check=True, env=environment, capture_output=True)
    found = {name: data for name, data in contents(tmp_path / "killed").items() if ".partial" not in name}
    assert found == expected


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    write_karpathy(tmp_path / "data", {"train": 60, "val": 12}, captions=3)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path, "alone"), check=True, env=environment, capture_output=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    script = tmp_path / "extract.py"
    script.write_text(_SMALL_SHARDS)
    words = command(tmp_path, "shared", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    subprocess.run([*launch, str(script), *words[3:]], check=True, env=environment, capture_output=True, timeout=300)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    assert Manifest.read(tmp_path / "shared" / "train" / "images").rows == 60
    assert np.load(tmp_path / "shared" / "train" / "images" / "00000" / "lengths.npy").shape == (8,)
