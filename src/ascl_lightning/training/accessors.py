"""Typed accessors for the module, the data module and the run folder of a Lightning trainer."""

from pathlib import Path
from typing import TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.training.module import RetrievalModule

Kind = TypeVar("Kind", bound=Callback)


def retrieval_data(trainer: Trainer) -> RetrievalDataModule:
    """The data module of a run.

    Raises:
        TypeError: If the trainer has no `RetrievalDataModule`.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, RetrievalDataModule):
        raise TypeError(f"this callback needs a RetrievalDataModule, not {type(datamodule).__name__}")
    return datamodule


def retrieval_module(pl_module: LightningModule) -> RetrievalModule:
    """The module of a run.

    Raises:
        TypeError: If it is not a `RetrievalModule`.
    """
    if not isinstance(pl_module, RetrievalModule):
        raise TypeError(f"this callback needs a RetrievalModule, not {type(pl_module).__name__}")
    return pl_module


def run_folder(trainer: Trainer) -> Path:
    """The first logger's folder, or `default_root_dir` without a logger. A collective: call it on all ranks."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def evaluated_split(trainer: Trainer) -> str | None:
    """The split that `ascl validate` or `ascl test` evaluates; None during training."""
    return {TrainerFn.VALIDATING: "val", TrainerFn.TESTING: "test"}.get(trainer.state.fn)  # type: ignore[arg-type]


def ranked_split(trainer: Trainer) -> str | None:
    """As `evaluated_split`; None also for a benchmark of hard negatives, which is not ranked."""
    split = evaluated_split(trainer)
    return None if split is None or retrieval_data(trainer).view(split).split.choices is not None else split


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Whether this is a `fast_dev_run`, which must not write files."""
    return bool(getattr(trainer, "fast_dev_run", False))


def callbacks_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """The callbacks of one class, in trainer order."""
    every: list[Callback] = getattr(trainer, "callbacks", [])
    return [callback for callback in every if isinstance(callback, kind)]
