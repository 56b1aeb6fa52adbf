"""Runs `ascl` commands once each, in any number of processes that share a folder.

A process claims a task by a lock on a file in the task's folder (flock). The kernel releases it when the process and
the command that it started have ended, for whatever reason, so that another process can go on.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from ascl_lightning.runtime.files import write_file
from ascl_lightning.runtime.locks import take_lock
from ascl_lightning.runtime.processes import StopSignals

DONE = "done.json"
"""Written when all commands of a task have succeeded."""
LOG = "log.txt"
_LOCK = "lock"
_SECONDS_BETWEEN_LOOKS = 2.0


class CommandError(Exception):
    """A command of a task failed."""


@dataclass(frozen=True, eq=False)
class Task:
    """Commands to run in order.

    Args:
        name: Name for messages.
        folder: Folder of the task: its log, its lock, and what its commands write.
        commands: Command lines of `ascl`.
        needs: Task that must be done before.
        removed: Patterns of folders to remove when it is done.
    """

    name: str
    folder: Path
    commands: tuple[tuple[str, ...], ...]
    needs: "Task | None" = None
    removed: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether all commands have succeeded."""
        return (self.folder / DONE).is_file()

    @property
    def record(self) -> dict[str, Any]:
        """What `run` recorded: seconds and machine."""
        content: dict[str, Any] = json.loads((self.folder / DONE).read_text(encoding="utf-8"))
        return content

    def run(self, claimed: int, environment: Mapping[str, str], machine: str, stopped: Event) -> float:
        """Runs the commands that have not succeeded yet.

        Args:
            claimed: Descriptor from `claim`; commands inherit it, so that the claim lasts as long as they run.
            environment: Environment variables of the commands.
            machine: Name of the machine, to be recorded.
            stopped: When set, the running command is told to save and to end.

        Returns:
            The seconds that it took.

        Raises:
            CommandError: If a command fails, or is stopped.
        """
        start = time.monotonic()
        for command in self.commands:
            finished = self.folder / f"{command[0]}.done"
            if finished.is_file():
                continue
            if command[0] == "validate":
                # of an interrupted validation
                shutil.rmtree(self.folder / command[0], ignore_errors=True)
            self._run(command, claimed, environment, stopped)
            finished.touch()
        for pattern in self.removed:
            for folder in self.folder.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)
        seconds = time.monotonic() - start
        write_file(self.folder / DONE, json.dumps({"seconds": round(seconds, 1), "machine": machine}) + "\n")
        return seconds

    def _run(self, command: Sequence[str], claimed: int, environment: Mapping[str, str], stopped: Event) -> None:
        log = self.folder / LOG
        with log.open("ab") as lines:
            lines.write(f"$ ascl {shlex.join(command)}\n".encode())
            lines.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "ascl_lightning", *command],
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=subprocess.STDOUT,
                pass_fds=(claimed,),
                env=dict(environment),
            )
            code = _exit_code(process, stopped)
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-1]
            raise CommandError(f"`ascl {command[0]}` ended with code {code}: {last} ({log})")


def _exit_code(process: "subprocess.Popen[bytes]", stopped: Event) -> int:
    """Waits for a command; when the work is stopped, tells it to save and to end."""
    while process.poll() is None:
        if stopped.wait(_SECONDS_BETWEEN_LOOKS):
            process.terminate()
            break
    return process.wait()


@contextmanager
def claim(folder: Path) -> Iterator[int | None]:
    """Claims the task of a folder, which is created.

    Yields:
        The descriptor of the locked file; None if another process, or another thread of this one, has the task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = take_lock(folder / _LOCK)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


class Workers:
    """Threads that each run one task at a time, until every task is done or has failed here.

    Tasks of other processes are waited for: if they end without having finished one, it is run here.

    Args:
        tasks: The tasks; those that others need come along.
        jobs: Number of threads.
        environment: Environment variables of the commands.
        machine: Name of the machine, to be recorded.
    """

    def __init__(self, tasks: Sequence[Task], jobs: int, environment: Mapping[str, str], machine: str) -> None:
        needed = [task.needs for task in tasks if task.needs is not None]
        self._tasks = list(dict.fromkeys((*needed, *tasks)))
        self._jobs = jobs
        self._environment = environment
        self._machine = machine
        self._stopped = Event()
        self.failed: dict[Task, str] = {}
        """Reasons by task."""

    def run(self) -> None:
        """Runs the tasks.

        A stop signal (`StopSignals`) reaches the running commands, and is obeyed when they have ended.
        """
        signals = StopSignals()
        signals.listen()
        try:
            with ThreadPoolExecutor(self._jobs) as pool:
                threads = [pool.submit(self._work) for _ in range(self._jobs)]
                try:
                    for thread in threads:
                        thread.result()
                finally:
                    self._stopped.set()
        finally:
            signals.restore()

    def _work(self) -> None:
        while not self._stopped.is_set():
            left = [task for task in self._tasks if task not in self.failed and not task.is_done]
            if not left:
                return
            if not any(self._attempt(task) for task in left):
                self._stopped.wait(_SECONDS_BETWEEN_LOOKS)

    def _attempt(self, task: Task) -> bool:
        """Runs a task if it is free and can run; returns whether it did."""
        if self._stopped.is_set():
            return True
        if task.needs in self.failed:
            self.failed[task] = f"needs {task.needs.name}"
        if task in self.failed or (task.needs is not None and not task.needs.is_done):
            return False
        with claim(task.folder) as claimed:
            # another process may have finished it, or another thread failed, since the list was made
            if claimed is None or task.is_done or task in self.failed:
                return False
            try:
                seconds = task.run(claimed, self._environment, self._machine, self._stopped)
            except CommandError as error:
                self.failed[task] = str(error)
                outcome = "stopped" if self._stopped.is_set() else f"failed: {error}"
                print(f"{task.name}: {outcome}", flush=True)
            else:
                done = sum(of.is_done for of in self._tasks)
                print(f"{task.name}: {seconds:.0f} s ({done} of {len(self._tasks)} done)", flush=True)
        return True
