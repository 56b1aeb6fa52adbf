"""Runs of the command line that W&B records offline, each in a process of its own: a record is complete at its end."""

import os
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = Path(__file__).parent / "configs" / "tiny.yaml"


def record(root: Path, command: str, *arguments: str, logger: str = "wandb") -> subprocess.CompletedProcess[str]:
    """Runs a command on the data in `root/data`, with the tiny experiment; runs lie in `root/runs`.

    There is no account, no network and no home folder.
    """
    configs = ["--config", str(TINY), "--config", str(CONFIGS / "logger" / f"{logger}.yaml")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, "-m", "ascl_lightning", command, *configs, "--data.root", "data", *arguments],
        cwd=root,
        env=environment | {"HOME": str(root / "home"), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
