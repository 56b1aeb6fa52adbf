"""Leaks planted through the command line: refused, and with --allow-leak branded; clean runs pass."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from lightning.pytorch import Trainer
from tests.helpers.datasets import write_karpathy
from tests.helpers.layouts import write_shards

from ascl_lightning import cli
from ascl_lightning.__main__ import main
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.stored_features import FeatureTable
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.evaluation.leaks.guard import LeakGuard
from ascl_lightning.search import rerank
from ascl_lightning.training.findings import Findings
from ascl_lightning.training.module import RetrievalModule

pytestmark = pytest.mark.usefixtures("without_page")

TINY = str(Path(__file__).parents[2] / "configs" / "tiny.yaml")
JSON = "dataset_flickr8k.json"
FROZEN = [
    "--model.image_encoder.init_args.tuning.frozen",
    "true",
    "--model.text_encoder.init_args.tuning.frozen",
    "true",
]


def ascl(command: str, root: Path, data: Path, *flags: str) -> int:
    runs = [] if command == "extract" else ["--trainer.default_root_dir", str(root / "runs")]
    return main([command, "--config", TINY, *runs, "--data.root", str(data), *flags])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Data, and a run on it."""
    root = tmp_path_factory.mktemp("trained")
    write_karpathy(root / "data", {"train": 9, "val": 4, "test": 5}, captions=[2, 3, 1])
    assert ascl("fit", root, root / "data") == 0
    return root


def best(root: Path) -> Path:
    (found,) = root.glob("runs/fit/*/checkpoints/best.ckpt")
    return found


@pytest.fixture
def guards(monkeypatch) -> list[LeakGuard]:
    """The guards of the tests that are run."""
    made: list[LeakGuard] = []

    class Seen(LeakGuard):
        def __init__(self, allow: bool = False) -> None:
            super().__init__(allow)
            made.append(self)

    monkeypatch.setattr(cli, "LeakGuard", Seen)
    return made


def with_test_pictures_of(data: Path, split: str, out: Path) -> Path:
    """The data set with the first two pictures of its test split being those of another split, by other names."""
    shutil.copytree(data, out)
    images = json.loads((out / JSON).read_text())["images"]
    names = {name: [image["filename"] for image in images if image["split"] == name] for name in (split, "test")}
    for source, target in list(zip(names[split], names["test"], strict=False))[:2]:
        shutil.copy(out / "images" / source, out / "images" / target)
    return out


def refused(root: Path, data: Path, capsys, *flags: str) -> str:
    """What the command says that refuses; it leaves no figures."""
    assert ascl("test", root, data, *flags) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ascl: error: ")
    assert "--allow-leak tests anyway" in line
    assert not list(root.glob("runs/test/*/results.json"))
    return line


def branded(root: Path, data: Path, guards: list[LeakGuard], *flags: str) -> list[str]:
    """The kinds of leaks that the results of an allowed test name."""
    with pytest.warns(UserWarning, match="not valid as a test"):
        assert ascl("test", root, data, "--allow-leak", *flags) == 0
    assert list(root.glob("runs/test/*/results.json"))
    return [leak.kind for leak in guards[-1].checked.found]


def test_a_clean_test_finds_nothing(trained, tmp_path, guards):
    assert ascl("test", tmp_path, trained / "data", "--ckpt_path", str(best(trained))) == 0
    (weights,) = trained.glob("runs/fit/*/weights")
    assert ascl("test", tmp_path, trained / "data", "--ckpt_path", str(weights)) == 0
    assert [(guard.checked.found, guard.checked.unchecked) for guard in guards] == [([], []), ([], [])]


@pytest.mark.parametrize(
    ("split", "kind", "said"),
    [("train", "training_images", "were trained on"), ("val", "selection_images", "was selected, by val/rsum")],
)
@pytest.mark.parametrize("file", ["best", "weights"])
def test_training_and_selection_images_are_refused(trained, tmp_path, guards, capsys, split, kind, said, file):
    data = with_test_pictures_of(trained / "data", split, tmp_path / "data")
    (weights,) = trained.glob("runs/fit/*/weights")
    checkpoint = ["--ckpt_path", str({"best": best(trained), "weights": weights}[file])]
    line = refused(tmp_path, data, capsys, *checkpoint)
    assert "2 of the 5 test images (test_0013.jpg, test_0014.jpg)" in line
    assert said in line
    assert branded(tmp_path, data, guards, *checkpoint) == [kind]


def test_the_selection_split_may_be_validated_repeatedly(trained):
    assert ascl("validate", trained, trained / "data", "--ckpt_path", "best") == 0


def test_another_data_set_with_the_same_names_is_tested(trained, tmp_path, guards):
    write_karpathy(tmp_path / "data", {"test": 5})
    images = json.loads((tmp_path / "data" / JSON).read_text())
    for number, image in enumerate(images["images"]):
        name = f"train_{number:04d}.jpg"
        (tmp_path / "data" / "images" / image["filename"]).rename(tmp_path / "data" / "images" / name)
        image["filename"] = name
    (tmp_path / "data" / JSON).write_text(json.dumps(images))
    # its pictures are those of other numbers than the training's
    for path in (tmp_path / "data" / "images").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    assert ascl("test", tmp_path, tmp_path / "data", "--ckpt_path", str(best(trained))) == 0
    assert (guards[0].checked.found, guards[0].checked.unchecked) == ([], [])
    # training has 2, 3, 1, 2, 3 captions of these numbers
    assert guards[0].checked.notes == ["11 of the 25 test captions occur in training too"]


def test_a_vocabulary_from_test_captions_is_refused(tmp_path, guards, capsys, monkeypatch):
    write_karpathy(tmp_path / "data", {"train": 9, "val": 4, "test": 5}, captions=2)

    def mine(data: RetrievalDataModule) -> Vocabulary:
        captions = [text for split in ("train", "test") for texts in data.read(split).captions for text in texts]
        return Vocabulary.mine(captions, data.text_spec.vocab_size)

    monkeypatch.setattr(RetrievalDataModule, "mine_vocabulary", mine)
    assert ascl("fit", tmp_path, tmp_path / "data") == 0
    line = refused(tmp_path, tmp_path / "data", capsys, "--ckpt_path", "best")
    assert "5 words of the vocabulary occur in no training caption, but in the test captions ('13', '14', '15')" in line
    assert branded(tmp_path, tmp_path / "data", guards, "--ckpt_path", "best") == ["vocabulary"]


def test_a_checkpoint_selected_by_a_test_metric_is_refused(trained, tmp_path, guards, capsys):
    checkpoint = torch.load(best(trained), weights_only=True)
    (selection,) = checkpoint["RetrievalDataModule"]["provenance"]["selections"]
    assert (selection["split"], selection["monitors"]) == ("val", ["val/rsum"])
    selection["monitors"] = ["test/rsum"]
    torch.save(checkpoint, tmp_path / "best.ckpt")
    flags = ["--ckpt_path", str(tmp_path / "best.ckpt")]
    assert "selected by test/rsum" in refused(tmp_path, trained / "data", capsys, *flags)
    assert branded(tmp_path, trained / "data", guards, *flags) == ["selection_metric"]


def test_a_scorer_with_access_to_the_true_partner_is_refused(trained, tmp_path, guards, capsys, monkeypatch):
    """As published: the context of each image comes from its own caption, before anything is ranked."""
    encode = RetrievalModule.encode

    def leaking(module, batch):
        of = encode(module, batch)
        partner = (batch.text_image_ids == batch.image_ids[:, None]).int().argmax(1)
        pooled = of.images.pooled + of.texts.pooled[partner]
        return replace(of, images=replace(of.images, pooled=pooled))

    monkeypatch.setattr(RetrievalModule, "encode", leaking)
    flags = ["--ckpt_path", str(best(trained))]
    assert "permuting the pairs of the first batch" in refused(tmp_path, trained / "data", capsys, *flags)
    assert branded(tmp_path, trained / "data", guards, *flags) == ["scorer"]


def test_re_ranking_by_sibling_captions_is_refused(trained, tmp_path, guards, capsys, monkeypatch):
    """As published: a text's candidates by the best rank that any caption of its image has with them."""
    write_karpathy(tmp_path / "data", {"test": 6}, captions=5, first=100)

    def of_siblings(similarity, k=15):
        best_images = similarity.argsort(dim=1, descending=True)[:, :k]
        ranks = similarity.argsort(dim=0, descending=True).argsort(dim=0)
        if len(similarity) == 30:  # captions are queries
            ranks = ranks.view(6, 5, -1).amin(1).repeat_interleave(5, 0)
        return best_images.gather(1, ranks.gather(1, best_images).argsort(dim=1, stable=True))

    monkeypatch.setattr(rerank, "reciprocal_rerank", of_siblings)
    flags = ["--ckpt_path", str(best(trained))]
    line = refused(tmp_path, tmp_path / "data", capsys, *flags)
    assert "re-ranking depends on which images and texts belong together" in line
    assert "the results of 0 images and" in line
    assert branded(tmp_path, tmp_path / "data", guards, *flags) == ["reranking"]


def test_a_checkpoint_without_a_record_is_tested_and_reported(trained, tmp_path, guards):
    checkpoint = torch.load(best(trained), weights_only=True)
    del checkpoint["RetrievalDataModule"]["provenance"]
    torch.save(checkpoint, tmp_path / "older.ckpt")
    assert ascl("test", tmp_path, trained / "data", "--ckpt_path", str(tmp_path / "older.ckpt")) == 0
    assert guards[0].checked.found == []
    (unchecked,) = guards[0].checked.unchecked
    assert "the checkpoint has no record" in unchecked
    # training resumes from it and adds a record
    flags = ["--ckpt_path", str(tmp_path / "older.ckpt"), "--trainer.max_epochs", "3"]
    assert ascl("fit", tmp_path, trained / "data", *flags) == 0
    assert ascl("test", tmp_path, trained / "data", "--ckpt_path", str(best(tmp_path))) == 0
    assert guards[1].checked.unchecked == ["the data of the checkpoint that training resumed from, which has no record"]


def test_the_record_names_operations_whose_negatives_the_loss_uses(trained, tmp_path):
    assert torch.load(best(trained), weights_only=True)["RetrievalDataModule"]["provenance"]["negatives"] == [
        "shuffle_words"
    ]
    assert ascl("fit", tmp_path, trained / "data", "--model.loss", "InfoNCE", "--trainer.max_epochs", "1") == 0
    assert torch.load(best(tmp_path), weights_only=True)["RetrievalDataModule"]["provenance"]["negatives"] == []


def test_a_resume_keeps_the_record(trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    before = torch.load(best(trained), weights_only=True)["RetrievalDataModule"]["provenance"]
    assert ascl("fit", tmp_path, trained / "data", "--ckpt_path", "last", "--trainer.max_epochs", "3") == 0
    last = max(tmp_path.glob("runs/fit/version_*/checkpoints/last-00000009.ckpt"))
    assert torch.load(last, weights_only=True)["RetrievalDataModule"]["provenance"] == before


def test_resuming_with_other_data_adds_to_the_record(trained, tmp_path, guards, capsys):
    write_karpathy(tmp_path / "data", {"train": 12, "val": 4, "test": 3}, captions=2)
    for path in (tmp_path / "data" / "images").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    flags = ["--ckpt_path", str(max(trained.glob("runs/fit/*/checkpoints/last-*.ckpt"))), "--trainer.max_epochs", "3"]
    assert ascl("fit", tmp_path, tmp_path / "data", *flags) == 0
    for split in ("train", "val"):
        data = with_test_pictures_of(trained / "data", split, tmp_path / split)
        assert "2 of the 5 test images" in refused(tmp_path, data, capsys, "--ckpt_path", str(best(tmp_path)))


@pytest.mark.slow
def test_scenes_are_tested_without_a_finding(tmp_path, guards):
    sizes = [f"--data.source.init_args.num_{split}={size}" for split, size in (("train", 12), ("val", 6), ("test", 8))]
    flags = ["--data.source", "Scenes", *sizes, "--data.source.init_args.image_size", "32"]
    assert ascl("fit", tmp_path, tmp_path, *flags) == 0
    assert ascl("test", tmp_path, tmp_path, *flags, "--ckpt_path", "best") == 0
    assert (guards[0].checked.found, guards[0].checked.unchecked) == ([], [])


def test_extracted_features_know_the_pictures_that_they_are_of(trained, tmp_path, guards, capsys):
    data, out = trained / "data", tmp_path / "out"
    assert ascl("extract", tmp_path, data, "--out", str(out), *FROZEN) == 0
    features = [*FROZEN, "--data.source", "ExtractedFeatures"]
    assert ascl("fit", tmp_path, out, *features) == 0
    assert ascl("test", tmp_path, out, *features, "--ckpt_path", "best") == 0
    assert (guards[0].checked.found, guards[0].checked.unchecked) == ([], [])
    shutil.rmtree(tmp_path / "runs" / "test")
    planted = with_test_pictures_of(data, "train", tmp_path / "planted")
    line = refused(tmp_path, planted, capsys, *FROZEN, "--ckpt_path", "best")
    assert "2 of the 5 test images (test_0013.jpg, test_0014.jpg) were trained on" in line
    # what an earlier version extracted has names and captions alone
    (out / "test" / "pictures.npy").unlink()
    assert ascl("test", tmp_path, out, *features, "--ckpt_path", "best") == 0
    assert guards[-1].checked.found == []
    assert "names and captions were compared" in guards[-1].checked.unchecked[0]
    assert len(FeatureTable(out / "test" / "images")) == 5


def test_captions_of_streamed_data_are_recorded(tmp_path, guards):
    content = {
        split: [(f"{split}-{row}.png", (f"the {split} picture {row}", "a picture")) for row in range(6)]
        for split in ("train", "val", "test")
    }
    write_shards(tmp_path, content)
    shards = {split: f"{split}-*.tar" for split in content}
    source = {"class_path": "WebDataset", "init_args": {"shards": shards, "captions": "json", "streaming": True}}
    flags = [f"--data.source={json.dumps(source)}"]
    assert ascl("fit", tmp_path, tmp_path, *flags) == 0
    assert ascl("test", tmp_path, tmp_path, *flags, "--ckpt_path", "best") == 0
    assert guards[0].checked.found == []
    (streamed,) = guards[0].checked.unchecked
    assert "the training images were streamed" in streamed
    assert guards[0].checked.notes == ["6 of the 12 test captions occur in training too"]


@pytest.mark.slow
def test_both_ranks_raise(trained, tmp_path):
    data = with_test_pictures_of(trained / "data", "train", tmp_path / "data")
    flags = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--ckpt_path", str(best(trained))]
    roots = ["--trainer.default_root_dir", str(tmp_path / "runs"), "--data.root"]
    command = [sys.executable, "-m", "ascl_lightning", "test", "--config", TINY, *flags, *roots]
    ended = [
        subprocess.run([*command, *more], capture_output=True, text=True, timeout=300, check=False)
        for more in ([str(trained / "data")], [str(data)], [str(data), "--allow-leak"])
    ]
    # a rank that is slow to end beside one that failed is killed
    assert [run.returncode == 0 for run in ended] == [True, False, True], ended[0].stderr
    assert not list((tmp_path / "runs").glob("test/version_1/results.json"))
    assert "were trained on" in ended[1].stderr
    assert "not valid as a test" in ended[2].stderr


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_only_tests_check_for_leaks(trained, capsys, command):
    assert ascl(command, trained, trained / "data", "--allow-leak") == 2
    assert "only `ascl test` checks for leaks" in capsys.readouterr().err


def test_without_a_checkpoint_the_data_are_unchecked():
    guard, module = LeakGuard(), mock.Mock(spec=RetrievalModule, findings=Findings())
    data = mock.Mock(spec=RetrievalDataModule, provenance=None)
    guard.on_test_start(mock.Mock(spec=Trainer, datamodule=data, ckpt_path=None), module)
    assert guard.checked.unchecked == ["what the model was trained and selected on: no checkpoint is given"]
