"""`ascl extract` and what the other commands make of its folder, in this process, on small data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.datasets import write_karpathy

from ascl_lightning.__main__ import main
from ascl_lightning.data.sources import ExtractedFeatures
from ascl_lightning.data.stored_features import FeatureTable, Manifest, TextRows

pytestmark = pytest.mark.usefixtures("without_page")

TINY = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")
FROZEN = [
    "--model.image_encoder.init_args.tuning.frozen",
    "true",
    "--model.text_encoder.init_args.tuning.frozen",
    "true",
]
SPLITS = {"train": 9, "val": 4, "test": 4}
CAPTIONS = [2, 3, 0, 1]


def ascl(command: str, root: Path, data: Path, *flags: str) -> int:
    runs = ["--trainer.default_root_dir", str(root / "runs")] if command != "extract" else []
    return main([command, "--config", TINY, *FROZEN, *runs, "--data.root", str(data), *flags])


def from_features(command: str, root: Path, *flags: str) -> int:
    return ascl(command, root, root / "out", "--data.source", "ExtractedFeatures", *flags)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, its features in `out`, and a run on the features alone."""
    root = tmp_path_factory.mktemp("trained")
    write_karpathy(root / "data", SPLITS, captions=CAPTIONS)
    assert ascl("extract", root, root / "data", "--out", str(root / "out"), "--variants", "3") == 0
    (root / "data").rename(root / "gone")
    assert from_features("fit", root) == 0
    (root / "gone").rename(root / "data")
    return root


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def error(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ascl: error: ")
    return line


def test_every_split_is_extracted_with_its_captions(trained: Path) -> None:
    for split, size in SPLITS.items():
        read = ExtractedFeatures().read(trained / "out", split)
        assert len(read) == size
        manifest = Manifest.read(trained / "out" / split / "images")
        assert (manifest.rows, manifest.dtype) == (size, "float16")
    content = json.loads((trained / "data" / "dataset_flickr8k.json").read_text())["images"]
    expected = {
        image["filename"]: tuple(sentence["raw"] for sentence in image["sentences"])
        for image in content
        if image["split"] == "train"
    }
    train = ExtractedFeatures().read(trained / "out", "train")
    assert dict(zip(train.image_ids, train.captions, strict=True)) == expected


def test_variants_are_made_only_of_training_captions(trained: Path) -> None:
    rows = {split: TextRows.load(trained / "out" / split / "texts" / "rows") for split in SPLITS}
    captions = sum(CAPTIONS[i % 4] for i in range(9))
    assert rows["train"].positives.shape == rows["train"].negatives.shape == (captions, 3)
    assert rows["val"].positives.shape[1] == rows["test"].negatives.shape[1] == 0


def test_training_needs_no_pictures_and_leaves_a_run(trained: Path) -> None:
    run = only(trained, "runs/fit/version_0")
    files = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert files == ["best.ckpt", "last-00000002.ckpt", "last-00000004.ckpt"], "one an epoch of two steps"


def test_features_rank_and_embed_as_pictures_and_captions_do(trained: Path) -> None:
    checkpoint = ["--ckpt_path", str(only(trained, "runs/fit/version_0/checkpoints/last-00000004.ckpt"))]
    for root in (trained / "raw", trained / "stored"):
        (root / "out").parent.mkdir()
        (root / "out").symlink_to(trained / "out")
    for command in ("test", "predict"):
        assert ascl(command, trained / "raw", trained / "data", *checkpoint) == 0
        assert from_features(command, trained / "stored", *checkpoint) == 0
    embeddings = [
        load_file(only(trained / name, "runs/predict/*/embeddings-0.safetensors")) for name in ("raw", "stored")
    ]
    assert embeddings[0].keys() == embeddings[1].keys()
    for name, expected in embeddings[0].items():
        # float16 keeps 11 bits
        np.testing.assert_allclose(embeddings[1][name].numpy(), expected.numpy(), atol=2e-3)
    metrics = [
        json.loads(only(trained / name, "runs/test/*/results.json").read_text())["metrics"]
        for name in ("raw", "stored")
    ]
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[1]["test/rsum"] == pytest.approx(metrics[0]["test/rsum"])
    items = [json.loads(only(trained / name, "runs/predict/*/items-0.json").read_text()) for name in ("raw", "stored")]
    assert items[0] == items[1]


def test_words_attend_to_crops_as_to_regions_without_a_grid(trained: Path, tmp_path: Path) -> None:
    """Four tokens and five crops are not a grid of 3 x 3."""
    out = ["--out", str(tmp_path / "out"), "--splits", "[test]", "--views", "[crops]"]
    assert ascl("extract", tmp_path, trained / "data", *out) == 0
    checkpoint = ["--ckpt_path", str(only(trained, "runs/fit/version_0/checkpoints/last-00000004.ckpt"))]
    assert from_features("test", tmp_path, "--data.source.crop_tokens", "true", *checkpoint) == 0
    attention = json.loads(only(tmp_path, "runs/test/*/attention.json").read_text())
    assert attention["grid"] is None
    assert {len(word) for pair in attention["pairs"] for word in pair["word_to_region"]} == {9}


@pytest.mark.parametrize("command", ["fit", "test"])
def test_features_of_other_weights_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "out").symlink_to(trained / "out")
    # another seed draws other weights for the towers from scratch; a test takes its vocabulary from the checkpoint
    flags = ["--seed_everything", "1"]
    if command == "test":
        write_karpathy(tmp_path / "data", SPLITS, captions=CAPTIONS)
        assert ascl("fit", tmp_path, tmp_path / "data", *flags) == 0
        flags += ["--ckpt_path", "last"]
    assert from_features(command, tmp_path, *flags) == 2
    assert "these features come from another image encoder" in error(capsys)


def test_another_transform_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").symlink_to(trained / "out")
    assert from_features("fit", tmp_path, "--model.image_encoder.init_args.image_size", "48") == 2
    assert "another transform" in error(capsys)


def test_towers_that_train_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").symlink_to(trained / "out")
    assert from_features("fit", tmp_path, "--model.image_encoder.init_args.tuning.frozen", "false") == 2
    assert "the image encoder is not frozen" in error(capsys)


def test_other_operations_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").symlink_to(trained / "out")
    assert from_features("fit", tmp_path, "--data.negatives", "[DropWord]") == 2
    assert "made by other operations" in error(capsys)


def test_a_text_tower_that_trains_gets_captions(tmp_path: Path) -> None:
    """Only the frozen tower runs; the other reads the captions, which the folder holds."""
    write_karpathy(tmp_path / "data", {"train": 9, "val": 4}, captions=CAPTIONS)
    trains = ["--model.text_encoder.init_args.tuning.frozen", "false"]
    assert ascl("extract", tmp_path, tmp_path / "data", "--out", str(tmp_path / "out"), *trains) == 0
    assert not (tmp_path / "out" / "train" / "texts").exists()
    assert from_features("fit", tmp_path, *trains, "--trainer.max_epochs", "1") == 0


def test_texts_are_made_while_training_without_variants(tmp_path: Path) -> None:
    write_karpathy(tmp_path / "data", {"train": 9, "val": 4}, captions=CAPTIONS)
    assert ascl("extract", tmp_path, tmp_path / "data", "--out", str(tmp_path / "out"), "--variants", "0") == 0
    assert from_features("fit", tmp_path, "--data.negatives", "[DropWord]", "--trainer.max_epochs", "1") == 0


def test_bfloat16_is_the_upper_half_of_float32(trained: Path, tmp_path: Path) -> None:
    flags = ["--out", str(tmp_path / "out"), "--dtype", "bfloat16", "--splits", "[val]"]
    assert ascl("extract", tmp_path, trained / "data", *flags) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["val"]
    half, brain = (FeatureTable(root / "out" / "val" / "images") for root in (trained, tmp_path))
    assert brain.manifest.dtype == "bfloat16"
    bits = np.load(tmp_path / "out" / "val" / "images" / "00000" / "pooled.npy").view(np.uint16).astype(np.uint32) << 16
    rows = torch.arange(4)
    stored = brain.gather(rows).pooled.numpy()
    np.testing.assert_array_equal(stored, bits.view(np.float32))
    # 8 bits against 11
    np.testing.assert_allclose(stored, half.gather(rows).pooled.numpy(), rtol=2**-8)


def test_splits_that_do_not_exist_are_an_error(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ascl("extract", tmp_path, trained / "data", "--out", str(tmp_path / "out"), "--splits", "[dev]") == 2
    assert "the data has none of the splits dev" in error(capsys)


def test_the_folder_must_be_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "--config", TINY, "--data.root", str(trained / "data")]) == 2
    assert "out" in error(capsys)
