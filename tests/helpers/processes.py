"""Runs functions in processes of their own: a fork that a test looks at from outside, or ranks that see each other.

Both fork the process of the tests, which has imported everything: a new Python would spend ten seconds on that.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
import torch.distributed as dist
from torch import multiprocessing


def run_forked(
    function: Callable[..., Any],
    *args: Any,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> "subprocess.CompletedProcess[str]":
    """Calls a function in a fork of this process, as `subprocess.run` runs a program.

    Args:
        function: Gives the exit code; none is 0.
        args: Its arguments.
        cwd: Working folder.
        environment: All environment variables, if they are not those of this process.
        seconds: After which the process is killed.

    Returns:
        The exit code and what the process wrote to stdout and stderr.
    """
    _end_wandb()  # which refuses to be used by a fork
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _call(function, args, (out, err), cwd, environment)
        deadline = time.monotonic() + seconds
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        for file in (out, err):
            file.seek(0)
        code = os.waitstatus_to_exitcode(ended[1])
        return subprocess.CompletedProcess([], code, out.read().decode(), err.read().decode())


def _call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    files: tuple[BinaryIO, BinaryIO],
    cwd: Path | None,
    environment: Mapping[str, str] | None,
) -> NoReturn:
    """In the fork: calls the function and exits as Python does, but without the handlers that the parent registered."""
    code = 1
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        _tell_stderr()
        torch.set_num_threads(1)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(cwd or ".")
        code = function(*args) or 0
        _end_wandb()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_wandb() -> None:
    """Completes records, as the end of any Python process does."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def _tell_stderr() -> None:
    """Sends logs and warnings to stderr, away from where pytest collects them."""
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stderr  # `setStream` flushes the old one, which pytest may have closed
    warnings.showwarning = lambda message, category, filename, lineno, *_: sys.stderr.write(
        warnings.formatwarning(message, category, filename, lineno)
    )


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """What a function gives in each of some processes that see each other through gloo.

    Args:
        function: Called with `args`; its result must be picklable.
        world_size: Number of processes.
        args: The same for all.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _run, (world_size, folder, function, args), nprocs=world_size, start_method="fork"
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _run(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    try:
        torch.save(function(*args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
