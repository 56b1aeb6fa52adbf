"""Patches Lightning's loop state so that resuming is exact.

Without it, Lightning skips a validation that was due right after the saved step, counts an interrupted validation as
complete, skips an epoch after a checkpoint at the end of one if `max_steps` is set, and forgets the best model if the
path of the run folder changed. Tested in `tests/training/callbacks/test_recovery.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer


def validates_next(trainer: Trainer) -> bool:
    """Whether a validation follows the step that just ended."""
    loops = trainer.fit_loop
    return loops._data_fetcher is not None and loops.epoch_loop._should_check_val_fx(loops._data_fetcher)


def progress(trainer: Trainer, interrupts_validation: bool) -> dict[str, Any]:
    """Progress within an epoch that Lightning's counters do not tell.

    Args:
        trainer: The trainer, in any hook that saves a checkpoint.
        interrupts_validation: Whether it is saved during a validation, which the resumed run must repeat.
    """
    loops = trainer.fit_loop
    epochs = loops.epoch_progress.current.state_dict()
    batches = loops.epoch_loop.batch_progress.current.state_dict()
    validated = loops.epoch_loop.val_loop.batch_progress
    inside = epochs["started"] > epochs["processed"]
    after_step = batches["completed"] < batches["processed"]
    return {
        "inside_epoch": inside,
        "validation_due": interrupts_validation or (after_step and validates_next(trainer)),
        # batches of this epoch's validations, without the interrupted one
        "validated": validated.total.completed - (validated.current.completed if interrupts_validation else 0),
        # logged steps that the checkpoint covers
        "logged_steps": loops.epoch_loop._batches_that_stepped + inside,
    }


def correct_counters(fit_loop: dict[str, Any], recovery: Mapping[str, Any]) -> None:
    """Corrects the counters of a checkpoint before Lightning restores them.

    Args:
        fit_loop: Lightning's state of its training loop; changed in place.
        recovery: From `progress`.
    """
    if recovery["validation_due"]:
        # as if the validation was interrupted in its first batch, a case in which Lightning repeats it
        _complete(fit_loop["epoch_loop.batch_progress"])
        validated, done = fit_loop["epoch_loop.val_loop.batch_progress"], recovery["validated"]
        validated["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
        validated["current"] = dict.fromkeys(validated["current"], 0)
    if not recovery["inside_epoch"]:
        _complete(fit_loop["epoch_progress"])


def _complete(counts: dict[str, dict[str, int]]) -> None:
    """`completed` is only updated after the hooks that save checkpoints."""
    for part in (counts["total"], counts["current"]):
        part["completed"] = part["processed"]


def correct_folder(state: dict[str, Any] | None, folder: Path) -> None:
    """Updates the paths in `ModelCheckpoint`'s state if the folder of the resumed run has moved.

    Args:
        state: State of the callback in the checkpoint; None if it has none.
        folder: Its folder now. If this is the folder of a new run, it has no such files, and the state stays.
    """
    if (
        state is None
        or Path(state["dirpath"]) == folder
        or not (folder / Path(state["best_model_path"]).name).is_file()
    ):
        return

    def moved(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    state["dirpath"] = str(folder)
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = moved(state[name])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
