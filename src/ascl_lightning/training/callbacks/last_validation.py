"""Validates the final weights of a training."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LastValidation(Callback):
    """Validates after the last step, even if `check_val_every_n_epoch` or `val_check_interval` would skip it.

    Otherwise a run shorter than the interval would have no best checkpoint and no exported weights. The last step is
    that of `max_epochs` or `max_steps`, or the one after which another callback stops the training.
    """

    def __init__(self) -> None:
        self._validation_due = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes whether the run was interrupted before or during a validation."""
        self._validation_due = checkpoint.get("recovery", {}).get("validation_due", False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeats the last validation if the run was interrupted in it."""
        if self._validation_due:
            _validate_if_last(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Requests a validation if this step was the last."""
        _validate_if_last(trainer)


def _validate_if_last(trainer: Trainer) -> None:
    loops = trainer.fit_loop
    last_of_epoch = loops.epoch_loop.batch_progress.is_last_batch
    last_of_epochs = last_of_epoch and trainer.current_epoch + 1 == trainer.max_epochs
    last_of_steps = trainer.global_step == trainer.max_steps
    stopped = trainer.should_stop and loops._can_stop_early
    if not (last_of_epochs or last_of_steps or stopped):
        return
    if trainer.check_val_every_n_epoch is not None:
        trainer.check_val_every_n_epoch = 1
    trainer.val_check_batch = trainer.num_training_batches if last_of_epoch else 1
    trainer._val_check_time_interval = None  # type: ignore[attr-defined]
