"""Everything that needs a GPU, in one command of at most nine minutes.

Checks kernels against float64; measures speed and memory of scoring and training steps; compares a run on the GPU with
one on the CPU; runs two ranks over NCCL and the tests marked `gpu`. Each part is a separate process with a time limit,
and each figure is printed as soon as it is measured. Writes `gpu.json` and `gpu.md` to `--out FOLDER`. Without a GPU,
or with `--small`, sizes are small: this checks that all parts run, and the figures mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_runs
import gpu_scoring
import gpu_training
import torch

HERE = Path(__file__).parent
PARTS = {
    # name: (function that yields figures, time limit in seconds)
    "accuracy": (gpu_scoring.accuracy, 60),
    "speed": (gpu_scoring.speed, 60),
    "coco": (gpu_scoring.coco, 150),
    "equality": (gpu_runs.card_and_cpu, 90),
    "ranks": (gpu_runs.two_ranks, 40),
    "tests": (gpu_runs.marked_tests, 60),
    "training": (gpu_training.steps, 240),
}
MARK = "FIGURE "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--alone", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    small = arguments.small or not torch.cuda.is_available()
    if arguments.alone:
        for figure in PARTS[arguments.alone][0](small):
            print(MARK + json.dumps(figure), flush=True)
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    report = {"card": card, "torch": torch.__version__, "small": small, "figures": []}
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{card}, torch {torch.__version__}{', small sizes' if small else ''}", flush=True)
    for part in arguments.parts:
        for figure in _run(part, small):
            report["figures"].append({"part": part} | figure)
            print(_line(report["figures"][-1]), flush=True)
            (arguments.out / "gpu.json").write_text(json.dumps(report, indent=1))
            (arguments.out / "gpu.md").write_text(_table(report))


def _run(part: str, small: bool):
    """Figures of a part as its process prints them; if the process fails, the last figure says why."""
    command = [sys.executable, __file__, "--alone", part, *(["--small"] if small else [])]
    start, limit = time.monotonic(), PARTS[part][1] * (10 if small else 1)
    with subprocess.Popen(
        ["timeout", str(limit), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        for line in process.stdout:
            if line.startswith(MARK):
                yield json.loads(line.removeprefix(MARK))
        errors = process.stderr.read().strip().splitlines()
    seconds = time.monotonic() - start
    if process.returncode:
        why = f"no end within {limit} s" if process.returncode == 124 else " / ".join(errors[-3:])
        yield {"name": "failed", "why": why[-600:]}
    yield {"name": "whole part", "seconds": round(seconds, 1)}


def _environment() -> dict[str, str]:
    """An environment that imports the package of this tree, installed or not."""
    paths = [str(HERE.parent / "src"), str(HERE), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONWARNINGS": "ignore"}


def _line(figure: dict) -> str:
    return f"{figure['part']:9} {figure['name']:34} {_values(figure)}"


def _values(figure: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in figure.items() if key not in ("part", "name"))


def _table(report: dict) -> str:
    rows = [f"| {figure['part']} | {figure['name']} | {_values(figure)} |" for figure in report["figures"]]
    head = [f"{report['card']}, torch {report['torch']}", "", "| part | what | figures |", "|---|---|---|"]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    main()
