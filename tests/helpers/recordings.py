"""Runs of the command line that W&B records offline; a record is complete when its process has ended."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.processes import run_forked

from ascl_lightning.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"


def record(root: Path, command: str, *arguments: str, logger: str = "wandb", ranks: int = 1) -> str:
    """Runs a command of the tiny experiment on the data in `root/data`; runs lie in `root/runs`.

    There is no account, no network, and a home folder in which nothing can be made.

    Args:
        root: Working folder.
        command: Of `ascl`.
        arguments: More of them.
        logger: Which of `configs/logger`.
        ranks: Number of processes.

    Returns:
        Its output.
    """
    configs = ["--config", str(TINY), "--config", str(CONFIGS / "logger" / f"{logger}.yaml")]
    words = [command, *configs, "--data.root", "data", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = kept | {"HOME": "/dev/null", "OMP_NUM_THREADS": "1"}
    if ranks == 1:
        done = run_forked(main, words, cwd=root, environment=environment)
    else:  # the trainer starts the other ranks by the command line of the first
        done = subprocess.run(
            [sys.executable, "-m", "ascl_lightning", *words, "--trainer.devices", str(ranks)],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
