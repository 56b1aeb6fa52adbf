"""Runs of the command line that W&B records offline, each in a process of its own: a record is complete at its end."""

import os
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"


def record(root: Path, command: str, *arguments: str, logger: str = "wandb", launch: tuple[str, ...] = ()) -> str:
    """Runs a command of the tiny experiment on the data in `root/data`; runs lie in `root/runs`.

    There is no account, no network, and a home folder in which nothing can be made.

    Args:
        root: Working folder.
        command: Of `ascl`.
        arguments: More of them.
        logger: Which of `configs/logger`.
        launch: What starts the processes, where it is not the trainer.

    Returns:
        What it says.
    """
    configs = ["--config", str(TINY), "--config", str(CONFIGS / "logger" / f"{logger}.yaml")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, *launch, "-m", "ascl_lightning", command, *configs, "--data.root", "data", *arguments],
        cwd=root,
        env=environment | {"HOME": "/dev/null", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
