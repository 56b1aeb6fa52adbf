"""A run of version 0.1.0, `tests/fixtures/run_0_1`: its configuration and its checkpoint still work."""

import csv
from pathlib import Path

import pytest
import torch

from ascl_lightning.__main__ import main

pytestmark = pytest.mark.usefixtures("without_page")

RUN = Path(__file__).parent / "fixtures" / "run_0_1"
CHECKPOINT = RUN / "last.ckpt"


def command(name: str, root: Path, *more: str) -> list[str]:
    return [
        name,
        *(
            "--config",
            str(RUN / "config.yaml"),
            "--ckpt_path",
            str(CHECKPOINT),
            "--trainer.default_root_dir",
            str(root),
        ),
        *more,
    ]


def test_a_validation_measures_what_the_training_measured(tmp_path: Path) -> None:
    assert main(command("validate", tmp_path)) == 0

    (logged,) = tmp_path.glob("validate/version_0/metrics.csv")
    with logged.open() as file:
        (measured,) = csv.DictReader(file)
    then = torch.load(CHECKPOINT, weights_only=True)["metrics"]
    # asymmetry shares are measured in trainings alone
    compared = {name: value for name, value in then.items() if "/asymmetry/" not in name}
    assert {"val/rsum", "val/alignment", "val/uniformity/text"} < compared.keys()
    assert {name: float(measured[name]) for name in compared} == pytest.approx(compared, rel=1e-4)


def test_the_training_resumes(tmp_path: Path) -> None:
    assert main(command("fit", tmp_path, "--trainer.max_epochs", "2")) == 0

    (newest,) = tmp_path.glob("fit/version_0/checkpoints/last-*.ckpt")
    content = torch.load(newest, weights_only=True)
    assert (content["epoch"], content["global_step"]) == (1, 4)
