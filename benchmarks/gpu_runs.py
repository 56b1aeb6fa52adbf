"""Whole runs on a GPU: compared with the CPU, on two ranks over NCCL, and the tests marked `gpu`."""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
CUDA = torch.cuda.is_available()


def card_and_cpu(small: bool) -> Iterator[dict]:
    """`ascl fit` for a few steps on the CPU and on the GPU, then `ascl test` of one checkpoint on both."""
    devices = ("cpu", "gpu") if CUDA else ("cpu", "cpu")
    sizes = {"num_train": 96, "num_val": 32, "num_test": 40 if small else 500}
    shared = ["--config", "configs/scenes.yaml", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]
    shared += [part for key, value in sizes.items() for part in (f"--data.source.{key}", str(value))]
    with tempfile.TemporaryDirectory() as name:
        runs = {Path(name) / f"{number}-{device}": device for number, device in enumerate(devices)}
        for run, device in runs.items():
            _ascl("fit", *shared, "--trainer.accelerator", device, "--trainer.default_root_dir", str(run))
        cpu, card = (_losses(run) for run in runs)
        worst = max(abs(a - b) for a, b in zip(cpu, card, strict=True))
        yield {
            "name": f"fit: loss of {len(cpu)} steps",
            "first": f"{abs(cpu[0] - card[0]):.1e}",
            "worst": f"{worst:.1e}",
        }
        checkpoint = str(min(next(iter(runs)).rglob("*.ckpt")))
        for run, device in runs.items():
            _ascl("test", *shared, "--trainer.accelerator", device, "--trainer.default_root_dir", str(run),
                  "--ckpt_path", checkpoint, "--trainer.logger", "false")  # fmt: skip
        cpu, card = (_results(run) for run in runs)
        worst = max(abs(cpu[key] - card[key]) for key in cpu)
        yield {"name": "test of one checkpoint", "cpu_rsum": cpu["rsum"], "card_rsum": card["rsum"], "largest": worst}


def two_ranks(_: bool) -> Iterator[dict]:
    """A collective of two processes on one GPU; NCCL may refuse to share it."""
    if not CUDA:
        yield {"name": "NCCL", "said": "needs a GPU"}
        return
    script = (
        "import torch, torch.distributed as d, os\n"
        "torch.cuda.set_device(0)\n"
        "d.init_process_group('nccl', device_id=torch.device('cuda', 0))\n"
        "x = torch.ones(4, device='cuda') * (d.get_rank() + 1)\n"
        "d.all_reduce(x); torch.cuda.synchronize(); print('SUM', x.tolist()); d.destroy_process_group()\n"
    )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "collective.py"
        path.write_text(script)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(path)]
        environment = os.environ | {"NCCL_DEBUG": "WARN"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=35, check=False)
    refusal = re.findall(r"Duplicate GPU[^\n]*|nccl[A-Z][^\n]*", done.stdout + done.stderr)
    said = "works" if "SUM [3.0" in done.stdout else f"refused: {(refusal or [done.stderr.strip()[-200:]])[0]}"
    yield {"name": "NCCL, two processes on one card", "said": said}


def marked_tests(_: bool) -> Iterator[dict]:
    """Runs `pytest -m gpu`."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/models"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    yield {"name": "pytest -m gpu", "said": lines[-1] if lines else f"exit {done.returncode}"}


def _ascl(*arguments: str) -> None:
    command = [sys.executable, "-m", "ascl_lightning", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ascl {arguments[0]} exited with {done.returncode}: {done.stderr[-500:]}")


def _losses(run: Path) -> list[float]:
    with min(run.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    column = "train/loss_step" if "train/loss_step" in rows[0] else "train/loss"
    return [float(row[column]) for row in rows if row[column]]


def _results(run: Path) -> dict[str, float]:
    """Recalls, ranks and rSum of the fused score."""
    flat: dict[str, float] = {}

    def walk(value: object, name: str) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                walk(below, f"{name}/{key}" if key.startswith(("recall", "me")) else key)
        elif isinstance(value, float) and re.search(r"rsum$|recall_at|rank", name):
            flat.setdefault(name, value)

    walk(json.loads(min(run.rglob("results.json")).read_text()), "")
    return flat
