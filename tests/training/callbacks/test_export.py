"""Exported weights; `tests/test_cli.py` tests them end to end."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from ascl_lightning.data.fingerprint import SplitDigest
from ascl_lightning.data.provenance import Provenance
from ascl_lightning.errors import UserError
from ascl_lightning.models import exported
from ascl_lightning.models.exported import weights_file
from ascl_lightning.runtime.checkpoints import write_checkpoint
from ascl_lightning.training.callbacks.export import WeightsExport, weights_as_checkpoint

INF, NAN = float("inf"), float("nan")


def test_exported_weights_hold_weights_and_vocabulary_only(tmp_path):
    table = torch.arange(6.0).reshape(2, 3)
    checkpoint = {
        "state_dict": {"words": table, "tied": table, "turned": table.T, "count": torch.tensor(3)},
        "optimizer_states": [{"state": {}}],
        "RetrievalDataModule": {"vocabulary": ["a", "naïve", "狗"], "position": {"epoch": 3}},
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights_file(checkpoint["state_dict"], checkpoint["RetrievalDataModule"]))
    read = weights_as_checkpoint(path)
    assert read["RetrievalDataModule"] == {"vocabulary": ["a", "naïve", "狗"]}
    assert read["state_dict"].keys() == checkpoint["state_dict"].keys()
    assert all(torch.equal(read["state_dict"][name], value) for name, value in checkpoint["state_dict"].items())
    assert "optimizer_states" not in read


def test_the_same_weights_give_the_same_bytes():
    checkpoint = {"state_dict": {"w": torch.ones(2)}, "RetrievalDataModule": {"vocabulary": ["a"]}}
    written = set()
    for _ in range(20):
        written.add(weights_file(checkpoint["state_dict"], checkpoint["RetrievalDataModule"]))
    assert len(written) == 1


def test_provenance_too_large_for_metadata_is_unknown(tmp_path, monkeypatch):
    provenance = Provenance().trained(SplitDigest.of_stream([("a dog",)]), None, ["drop_word"]).state()
    checkpoint = {"state_dict": {"w": torch.ones(2)}, "RetrievalDataModule": {"provenance": provenance}}
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights_file(checkpoint["state_dict"], checkpoint["RetrievalDataModule"]))
    assert weights_as_checkpoint(path)["RetrievalDataModule"] == {"provenance": provenance}
    monkeypatch.setattr(exported, "_METADATA_ROOM", 100)
    path.write_bytes(weights_file(checkpoint["state_dict"], checkpoint["RetrievalDataModule"]))
    read = Provenance.from_state(weights_as_checkpoint(path)["RetrievalDataModule"]["provenance"])
    assert read.trainings == ()
    assert "too many images" in read.gaps[0]
    assert read.negatives == ("drop_word",)


def test_a_model_without_a_vocabulary_exports_none(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights_file({"w": torch.ones(2)}, {}))
    assert weights_as_checkpoint(path)["RetrievalDataModule"] == {}


@pytest.mark.parametrize("content", [b"", b"\x80\x00\x00\x00\x00\x00\x00\x00{}", b"no weights at all"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"the weights file .*model\.safetensors' is damaged"):
        weights_as_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"skipped_steps": 5}, "5 of 9 steps were skipped"),
        ({"state_dict": {"fine": torch.ones(1), "w": torch.tensor([1.0, NAN])}}, "1 of 2 tensors, such as w"),
        ({"state_dict": {"w": torch.tensor([1.0, INF], dtype=torch.bfloat16)}}, "1 of 1 tensors"),
    ],
)
def test_weights_of_mostly_skipped_steps_are_not_exported(tmp_path, content, message):
    best = tmp_path / "checkpoints" / "best.ckpt"
    write_checkpoint({"state_dict": {"w": torch.ones(2)}, "global_step": 9} | content, best)
    callback = SimpleNamespace(best_model_path=str(best))
    trainer = Mock(
        Trainer, fast_dev_run=False, is_global_zero=True, log_dir=str(tmp_path), checkpoint_callback=callback
    )
    with pytest.raises(UserError, match=f"{message}.*"):
        WeightsExport().on_fit_end(trainer, Mock(LightningModule))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
