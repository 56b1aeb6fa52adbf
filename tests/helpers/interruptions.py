"""Trainings that are interrupted where a test wants it, and what they leave to be compared."""

import csv
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.checkpoints import read_checkpoint


class Record(Callback):
    """Appends a digest of every training batch, with its epoch and place, to `batches-RANK.jsonl`.

    The process is named in `pid-RANK`, and the exception that ends it in `exit-RANK`.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def on_train_start(self, trainer, pl_module):
        (self._folder / f"pid-{trainer.global_rank}").write_text(str(os.getpid()))

    def on_exception(self, trainer, pl_module, exception):
        (self._folder / f"exit-{trainer.global_rank}").write_text(repr(exception))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        digest = hashlib.sha256()
        for value in tensors(batch):
            digest.update(str((value.dtype, tuple(value.shape))).encode() + value.contiguous().numpy().tobytes())
        line = json.dumps([trainer.current_epoch, batch_idx, digest.hexdigest()])
        with (self._folder / f"batches-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(line + "\n")


class Interrupt(Callback):
    """Sends a signal to this process in a hook: at the `at`-th call of it, counted from 0, on one rank."""

    def __init__(self, hook: str, at: int, number: int = int(signal.SIGTERM), rank: int = 0) -> None:
        self._calls = 0

        def count(trainer, *_: Any) -> None:
            if trainer.sanity_checking or trainer.global_rank != rank:
                return
            if self._calls == at:
                os.kill(os.getpid(), number)
            self._calls += 1

        setattr(self, hook, count)


class Mistake(Callback):
    """Finds a mistake of the user in the third step: on rank 1, or on all ranks."""

    def __init__(self, everywhere: bool) -> None:
        self._everywhere = everywhere

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2 and (self._everywhere or trainer.global_rank == 1):
            raise UserError("the file 'a.jpg' cannot be read")


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors inside dataclasses, sequences and mappings, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
    elif hasattr(value, "__dict__"):
        yield from tensors(list(vars(value).values()))


def batches(folder: Path, rank: int = 0) -> list[list[Any]]:
    """What `Record` wrote; where a batch was loaded and not trained on before an interruption, it comes once."""
    lines = (folder / f"batches-{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in dict.fromkeys(lines)]


def last(root: Path) -> dict[str, Any]:
    """The last checkpoint of the only run under a root, without what tells two runs apart: folders."""
    path = max(root.glob("runs/fit/version_0/checkpoints/last-*.ckpt"))
    return plain(read_checkpoint(path))


def plain(value: Any) -> Any:
    """Paths become names, tensors their bytes: what compares by `==`."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return Path(value).name if isinstance(value, str) and "/" in value and Path(value).is_absolute() else value


def interrupt(hook: str, at: int, number: signal.Signals = signal.SIGTERM) -> list[str]:
    """Arguments that send a signal in the `at`-th call of a hook."""
    chosen = {"hook": hook, "at": str(at), "number": str(int(number))}
    flags = [part for name, value in chosen.items() for part in (f"--trainer.callbacks.{name}", value)]
    return ["--trainer.callbacks+=tests.helpers.interruptions.Interrupt", *flags]


def rows(root: Path) -> list[dict[str, str]]:
    """Rows of `metrics.csv` without times and without epoch sums, which Lightning restarts on resume."""
    (path,) = root.glob("runs/fit/*/metrics.csv")
    with path.open(newline="") as file:
        kept = [row for row in csv.DictReader(file) if not row.get("train/skipped_images")]
    return [{name: value for name, value in row.items() if name != "train/pairs_per_second"} for row in kept]
