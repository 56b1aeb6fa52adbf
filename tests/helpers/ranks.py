"""Trainings in processes of their own, which a test watches, signals and ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
_LAUNCH = [sys.executable, "-m", "ascl_lightning"]
_PATIENCE = 120  # seconds to start, on a busy machine


class Run:
    """`ascl fit` on CPU processes, in a session of its own; `Record` tells where each rank is.

    Args:
        root: For data that lies in `root / "data"`, and what the run leaves.
        arguments: Added to the command line.
        ranks: Number of processes.
        launch: What starts it.
    """

    def __init__(self, root: Path, *arguments: str, ranks: int = 2, launch: list[str] | None = None) -> None:
        self.root = root
        self.ranks = ranks
        command = [
            *(_LAUNCH if launch is None else launch),
            *("fit", "--config", str(TINY), "--data.root", str(root / "data")),
            *("--trainer.default_root_dir", str(root / "runs"), "--trainer.devices", str(ranks)),
            *(("--trainer.strategy", "ddp_find_unused_parameters_true") if ranks > 1 else ()),
            *(
                "--trainer.callbacks+=tests.helpers.interruptions.Record",
                "--trainer.callbacks.folder",
                str(root / "seen"),
            ),
            *arguments,
        ]
        self.output = root / "output.txt"
        path = os.pathsep.join([str(TINY.parents[2] / "src"), str(TINY.parents[2])])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        with self.output.open("a") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.alive():
            process.kill()
        self.process.wait()

    def until_batch(self, number: int) -> "Run":
        """Waits until every rank has begun so many batches."""
        seen = [self.root / "seen" / f"batches-{rank}.jsonl" for rank in range(self.ranks)]
        self.until(lambda: all(path.is_file() and path.read_text().count("\n") >= number for path in seen))
        return self

    def until(self, happened: Callable[[], bool], seconds: float = _PATIENCE) -> None:
        """Waits, but not for a run that is over."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, self.output.read_text()[-3000:]
            assert time.monotonic() < deadline, self.output.read_text()[-3000:]
            time.sleep(0.05)

    def pid(self, rank: int) -> int:
        """Of a rank that has begun a batch."""
        return int((self.root / "seen" / f"pid-{rank}").read_text())

    def alive(self) -> list[psutil.Process]:
        """The processes of its session, those that load data among them."""
        return [process for process in psutil.process_iter(["status"]) if self._is_alive(process)]

    def _is_alive(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.process.pid and process.info["status"] != psutil.STATUS_ZOMBIE
        except ProcessLookupError:
            return False

    def end(self, seconds: float = _PATIENCE) -> int:
        """Waits for its exit code, and until none of its processes is left."""
        deadline = time.monotonic() + seconds
        code = self.process.wait(seconds)
        while self.alive():
            assert time.monotonic() < deadline, self.alive()
            time.sleep(0.05)
        return code

    def exits(self) -> list[str]:
        """What each rank ended with, as `Record` saw it."""
        return [(self.root / "seen" / f"exit-{rank}").read_text() for rank in range(self.ranks)]


def send(number: signal.Signals, *pids: int) -> None:
    """One signal to several processes."""
    for pid in pids:
        os.kill(pid, number)
