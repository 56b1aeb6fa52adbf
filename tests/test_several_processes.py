"""A training on two processes, as users start it, gives the weights of one on one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.helpers.datasets import write_karpathy

TINY = Path(__file__).parent / "configs" / "tiny.yaml"
FSDP = Path(__file__).parents[1] / "configs" / "trainer" / "fsdp.yaml"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SGD = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"]
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]


def weights(
    root: Path, name: str, launch: list[str], batch_size: int, precision: str, arguments: list[str]
) -> dict[str, torch.Tensor]:
    """What two epochs leave; the image tower, which has batch normalisation, is frozen."""
    runs = root / name
    command = [sys.executable, *launch, "-m", "ascl_lightning", "fit", "--config", str(TINY), *arguments]
    flags = {
        "--data.root": root,
        "--data.batch_size": batch_size,
        "--model.image_encoder.init_args.tuning.frozen": "true",
        "--trainer.default_root_dir": runs,
        "--trainer.precision": precision,
    }
    command += [f"{flag}={value}" for flag, value in flags.items()]
    ran = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    (path,) = runs.glob("**/checkpoints/best.ckpt")
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 16, "val": 4}, captions=[2, 3])
    alone = {
        "64-true": weights(tmp_path, "float64", [], 8, "64-true", []),
        "32-true": weights(tmp_path, "float32", [], 8, "32-true", SGD),
    }
    started = {
        "launched by the trainer": ([], "64-true", DDP, 1e-7),
        "launched by torchrun": (TORCHRUN, "64-true", DDP, 1e-7),
        # FSDP2 knows no float64, and in float32 Adam would make steps of the rounding of gradients that are zero
        "weights split": ([], "32-true", ["--config", str(FSDP), *SGD], 1e-5),
    }
    for name, (launch, precision, arguments, tolerance) in started.items():
        found = weights(tmp_path, name, launch, 4, precision, arguments)
        assert found.keys() == alone[precision].keys()
        for key, value in alone[precision].items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=tolerance, msg=f"{name}: {key}")
