"""What Lightning needs so that it goes on exactly: noted when a checkpoint is saved, mended when one is loaded.

Lightning leaves out a validation that follows the step after which was saved, and takes a part of one for all of it;
with `max_steps` it skips an epoch after a checkpoint at the end of one; and it forgets the best model when a folder is
spelt otherwise. All of it is tested in `tests/training/callbacks/test_recovery.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer


def validates_next(trainer: Trainer) -> bool:
    """Whether a validation follows the step that just ended."""
    loops = trainer.fit_loop
    return loops._data_fetcher is not None and loops.epoch_loop._should_check_val_fx(loops._data_fetcher)


def progress(trainer: Trainer, breaks_off: bool) -> dict[str, Any]:
    """Where in an epoch a training is, beyond Lightning's own counters.

    Args:
        trainer: In whichever hook a checkpoint is saved.
        breaks_off: Whether it is saved inside a validation, which is to be run anew.
    """
    loops = trainer.fit_loop
    epochs = loops.epoch_progress.current.state_dict()
    batches = loops.epoch_loop.batch_progress.current.state_dict()
    validated = loops.epoch_loop.val_loop.batch_progress
    inside = epochs["started"] > epochs["processed"]
    after_step = batches["completed"] < batches["processed"]
    return {
        "inside_epoch": inside,
        "validation_due": breaks_off or (after_step and validates_next(trainer)),
        # batches of this epoch's validations, without the one that is broken off
        "validated": validated.total.completed - (validated.current.completed if breaks_off else 0),
        # rows of the metrics that belong to what the checkpoint holds
        "logged_steps": loops.epoch_loop._batches_that_stepped + inside,
    }


def mend_counters(fit_loop: dict[str, Any], noted: Mapping[str, Any]) -> None:
    """Changes the counters of a checkpoint before Lightning restores them.

    Args:
        fit_loop: Lightning's own state of its training loop.
        noted: By `progress`.
    """
    if noted["validation_due"]:
        # as if one had been broken off in its first batch, which Lightning knows to run
        _complete(fit_loop["epoch_loop.batch_progress"])
        validated, done = fit_loop["epoch_loop.val_loop.batch_progress"], noted["validated"]
        validated["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
        validated["current"] = dict.fromkeys(validated["current"], 0)
    if not noted["inside_epoch"]:
        _complete(fit_loop["epoch_progress"])


def _complete(counts: dict[str, dict[str, int]]) -> None:
    """`completed` lags behind while hooks run, in which checkpoints are saved."""
    for part in (counts["total"], counts["current"]):
        part["completed"] = part["processed"]


def mend_folder(state: dict[str, Any] | None, folder: Path) -> None:
    """Lets `ModelCheckpoint` know its files where a run is gone on with in its own folder, by another path.

    Args:
        state: Of the callback in the checkpoint; None: not there.
        folder: Where it keeps files now; a run that goes on in a new folder begins with none.
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
