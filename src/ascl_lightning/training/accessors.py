"""The project's own parts behind Lightning's generic ones."""

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
        TypeError: If it is of another class, or loaders were given in its place.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, RetrievalDataModule):
        raise TypeError(f"this callback needs a RetrievalDataModule, not {type(datamodule).__name__}")
    return datamodule


def retrieval_module(pl_module: LightningModule) -> RetrievalModule:
    """The module of a run.

    Raises:
        TypeError: If it is of another class.
    """
    if not isinstance(pl_module, RetrievalModule):
        raise TypeError(f"this callback needs a RetrievalModule, not {type(pl_module).__name__}")
    return pl_module


def run_folder(trainer: Trainer) -> Path:
    """The folder of this run: the first logger's, or the trainer's root without one; all ranks ask together."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def evaluated_split(trainer: Trainer) -> str | None:
    """The split that `ascl validate` or `ascl test` evaluates; None inside a training, whose validations are quick."""
    return {TrainerFn.VALIDATING: "val", TrainerFn.TESTING: "test"}.get(trainer.state.fn)  # type: ignore[arg-type]


def is_trial(trainer: Trainer) -> bool:
    """Whether this is a `fast_dev_run`, which leaves nothing behind."""
    return bool(getattr(trainer, "fast_dev_run", False))


def callbacks_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """The callbacks of one class, in their order."""
    every: list[Callback] = getattr(trainer, "callbacks", [])
    return [callback for callback in every if isinstance(callback, kind)]
