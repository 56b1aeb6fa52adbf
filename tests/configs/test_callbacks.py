"""The fragments that add callbacks to any experiment, on the command line."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.helpers.datasets import write_karpathy

from ascl_lightning.__main__ import main

pytestmark = pytest.mark.usefixtures("without_page")

TINY = str(Path(__file__).parent / "tiny.yaml")
CALLBACKS = Path(__file__).parents[2] / "configs" / "callbacks"

# without steps, and without batch statistics that move
NOTHING_CHANGES = (
    "--model.optimizer",
    "AdamW",
    "--model.optimizer.lr",
    "0",
    "--model.image_encoder.tuning.frozen",
    "true",
)


def arguments(root: Path, fragment: str, *more: str) -> list[str]:
    return [
        *("--config", TINY, "--config", str(CALLBACKS / f"{fragment}.yaml")),
        *("--trainer.default_root_dir", str(root / "runs"), "--data.root", str(root / "data")),
        *more,
    ]


def logged(root: Path, name: str, command: str = "fit") -> list[float]:
    (file,) = root.glob(f"runs/{command}/*/metrics.csv")
    with file.open() as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]


def test_training_stops_when_rsum_no_longer_rises(tmp_path):
    write_karpathy(tmp_path / "data", {"train": 4, "val": 4}, captions=2)
    assert main(["fit", *arguments(tmp_path, "early_stopping", *NOTHING_CHANGES, "--trainer.max_epochs", "9")]) == 0
    assert len(logged(tmp_path, "val/rsum")) == 1 + 3


def test_the_average_is_what_best_holds_and_what_is_tested(tmp_path):
    write_karpathy(tmp_path / "data", {"train": 8, "val": 5, "test": 5}, captions=2)
    given = arguments(tmp_path, "weight_average", "--model.optimizer", "AdamW", "--model.optimizer.lr", "0.01")
    assert main(["fit", *given]) == 0
    (best,) = tmp_path.glob("runs/fit/*/checkpoints/best.ckpt")
    checkpoint = torch.load(best, weights_only=True)
    name = "model.text_projection.tokens.weight"
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])
    assert main(["validate", *given, "--ckpt_path", "best"]) == 0
    assert logged(tmp_path, "val/rsum", "validate") == [pytest.approx(max(logged(tmp_path, "val/rsum")))]
    (alignment,) = logged(tmp_path, "val/alignment", "validate")
    assert any(alignment == pytest.approx(each) for each in logged(tmp_path, "val/alignment"))
    assert main(["test", *given, "--ckpt_path", "best"]) == 0
    (metrics,) = tmp_path.glob("runs/test/*/results.json")
    assert 0 <= json.loads(metrics.read_text())["metrics"]["test/rsum"] <= 600


@pytest.mark.slow
def test_two_processes_stop_together_and_keep_one_average(tmp_path):
    """Every process needs val/rsum to stop by; a process that did not would wait for the others for half an hour."""
    write_karpathy(tmp_path / "data", {"train": 8, "val": 4}, captions=2)
    given = arguments(
        tmp_path,
        "early_stopping",
        *("--config", str(CALLBACKS / "weight_average.yaml"), "--trainer.max_epochs", "9"),
        *("--trainer.strategy", "ddp", "--trainer.devices", "2", "--model.similarity.text_gate", "true"),
        *NOTHING_CHANGES,
    )
    command = [sys.executable, "-m", "ascl_lightning", "fit", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in "".join(line for line in done.stderr.splitlines() if "val/" in line)
    assert len(logged(tmp_path, "val/rsum")) == 1 + 3
    (best,) = tmp_path.glob("runs/fit/*/checkpoints/best.ckpt")
    assert "current_model_state" in torch.load(best, weights_only=True)
