"""Checkpoints for an exact resume, and a clean stop on signals."""

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, WeightAveraging
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, distributed

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.checkpoints import LAST
from ascl_lightning.runtime.files import require_writable_folder
from ascl_lightning.runtime.processes import StopSignals
from ascl_lightning.training.accessors import callbacks_of, is_fast_dev_run
from ascl_lightning.training.callbacks.restart import correct_counters, correct_folder, progress, validates_next

_SECONDS_FOR_CHILDREN = 30


class RecoveryCheckpoints(Checkpoint):
    """Saves the whole training state at intervals and after each epoch, and keeps the newest files.

    On SIGTERM, SIGINT or SIGHUP on any rank, all ranks save together after the current step (or during a validation,
    which a resumed run repeats) and exit with 143, 130 or 129. Files are named by step, in the default folder of
    `ModelCheckpoint`.

    Checkpoints are only saved at points from which a resume is exact (`training/callbacks/restart.py`).

    Args:
        keep: Number of files to keep. With two, the run survives damage to one of them.
        minutes: Save after this time, also within an epoch. None: not by time.
        steps: Save after this many optimizer steps. None: not by steps.

    Raises:
        UserError: If a number is not positive.
    """

    def __init__(self, keep: int = 2, minutes: float | None = 15.0, steps: int | None = None) -> None:
        for name, value in {"keep": keep, "minutes": minutes, "steps": steps}.items():
            if value is not None and value <= 0:
                raise UserError(f"recovery.{name} is {value}; give a number above 0")
        self._keep = keep
        self._minutes = minutes
        self._steps = steps
        self._files: list[str] = []
        self._folder = Path()
        self._group: Any = None
        self._signals = StopSignals()
        self._stopped_by = 0
        self._interrupts_validation = False
        self._begins_epoch = False
        self._common_batches = 0.0
        self._saved_at = 0.0
        self._saved_step = 0

    @property
    def state_key(self) -> str:
        """Independent of the intervals, unlike Lightning's default."""
        return type(self).__qualname__

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determines the folder and checks that it is writable before training starts.

        Raises:
            UserError: If it is not writable.
        """
        if stage != "fit" or is_fast_dev_run(trainer):
            return
        default = ModelCheckpoint()
        default.setup(trainer, pl_module, stage)
        self._folder = Path(str(default.dirpath))
        if trainer.is_global_zero:
            require_writable_folder(self._folder)
        if trainer.world_size > 1:
            # gloo, since reducing the signals at each step must not wait for the GPU
            timeout = getattr(trainer.strategy, "_timeout", None)
            self._group = distributed.new_group(backend="gloo", timeout=timeout)

    def _listen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's handler of SIGTERM, which is set after `setup` and exits with 0."""
        self._signals.listen()

    on_sanity_check_start = on_test_start = on_predict_start = _listen

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, signals wait until the state is saved."""
        self._signals.listen()
        self._signals.deferred = not is_fast_dev_run(trainer)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if self._begins_epoch:
            # with `max_steps`, Lightning treats every resume as one within an epoch, and skips the rest of it
            trainer.fit_loop._restarting = trainer.fit_loop.epoch_loop.restarting = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exits if a signal came at the end of the previous epoch."""
        self._exit_if_stopped()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Exits if a signal came in the previous step, whose metrics are logged by now."""
        self._exit_if_stopped()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if a checkpoint is due or a signal came."""
        loops = trainer.fit_loop
        if is_fast_dev_run(trainer):
            return
        due, validates = self._agree(trainer), validates_next(trainer)
        last = loops.epoch_loop.batch_progress.is_last_batch
        # the next hook saves too; but after a signal, do not wait for a validation
        if (due and not (validates or last)) or (self._stopped_by and (validates or not last)):
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exits if a signal came in the previous step."""
        if trainer.state.fn != "fit":
            self._signals.listen()
        if not self._in_training(trainer):
            return
        self._exit_if_stopped()
        # after a resume within a validation, which starts again
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()
        self._common_batches = -self._reduce(trainer, [-sum(trainer.num_val_batches)]).item()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Saves and exits if a signal came; a resumed run repeats the validation."""
        # ranks may differ by one batch
        if not self._in_training(trainer) or batch_idx >= self._common_batches:
            return
        self._agree(trainer)
        if self._stopped_by:
            for averaging in callbacks_of(trainer, WeightAveraging):
                # swaps the trained weights back, for Lightning's own averages
                averaging.on_validation_epoch_end(trainer, pl_module)
            self._interrupts_validation = True
            self._save(trainer)
            self._exit_if_stopped()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves within an epoch, as after a step; at the end of an epoch, `on_train_epoch_end` saves."""
        if self._in_training(trainer) and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            due = self._agree(trainer)
            if due or self._stopped_by:
                self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves."""
        if not is_fast_dev_run(trainer):
            self._agree(trainer)
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ignores signals of the last step: the training is complete."""
        self._signals.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the processes that this one launched, if a signal stops the run."""
        self._signals.restore()
        if not isinstance(exception, SystemExit):
            return  # `main` ends the launcher, depending on the kind of error
        children = getattr(trainer.strategy.launcher, "procs", [])
        own, children[:] = list(children), []  # Lightning would kill this process when they end
        deadline = time.monotonic() + _SECONDS_FOR_CHILDREN
        while any(child.poll() is None for child in own) and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in own:
            child.kill()

    def state_dict(self) -> dict[str, Any]:
        """Names of the newest files."""
        return {"files": self._files}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the names of the files that exist; a damaged file that was skipped is no longer counted."""
        self._files = [name for name in state_dict["files"] if (self._folder / name).exists()]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the progress that Lightning does not store, to the checkpoints of all callbacks."""
        checkpoint["recovery"] = progress(trainer, self._interrupts_validation)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Corrects the state that Lightning restores next."""
        if trainer.state.fn == "fit" and "recovery" in checkpoint:
            correct_counters(checkpoint["loops"]["fit_loop"], checkpoint["recovery"])
            self._begins_epoch = not checkpoint["recovery"]["inside_epoch"]
            for callback in callbacks_of(trainer, ModelCheckpoint):
                correct_folder(checkpoint["callbacks"].get(callback.state_key), Path(str(callback.dirpath)))

    def _in_training(self, trainer: Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking and not is_fast_dev_run(trainer)

    def _agree(self, trainer: Trainer) -> bool:
        """Shares signals among ranks; returns whether a checkpoint is due by the clock of rank 0."""
        late = self._minutes is not None and time.monotonic() - self._saved_at >= 60 * self._minutes
        many = self._steps is not None and trainer.global_step - self._saved_step >= self._steps
        due = trainer.is_global_zero and (late or many)
        signal_number, any_due = self._reduce(trainer, [self._signals.received, due]).tolist()
        self._stopped_by = int(signal_number)
        return bool(any_due)

    def _reduce(self, trainer: Trainer, values: Sequence[int | float]) -> Tensor:
        """The maximum of each value over all ranks."""
        reduced = torch.tensor(values, dtype=torch.float64)
        if trainer.world_size > 1:
            distributed.all_reduce(reduced, distributed.ReduceOp.MAX, group=self._group)
        return reduced

    def _save(self, trainer: Trainer) -> None:
        path = self._folder / LAST.replace("*", f"{trainer.global_step:08d}")
        files = [*(name for name in self._files if name != path.name), path.name]
        self._files, surplus = files[-self._keep :], files[: -self._keep]
        trainer.save_checkpoint(path, weights_only=False)
        for name in surplus:
            trainer.strategy.remove_checkpoint(self._folder / name)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _exit_if_stopped(self) -> None:
        if self._stopped_by:
            rank_zero_info(
                f"Stopped by {signal.Signals(self._stopped_by).name}, saved {self._folder / self._files[-1]}; "
                f"the same command with --resume continues"
            )
            raise SystemExit(128 + self._stopped_by)
