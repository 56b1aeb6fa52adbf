"""Terminal output of a run: one line at its start, and progress lines where a progress bar cannot be shown."""

import logging
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info

from ascl_lightning.data.batch import ImageTextBatch
from ascl_lightning.training.accessors import evaluated_split, is_fast_dev_run, retrieval_data, run_folder

_NOTICES = (
    "💡 Tip:",
    "GPU available:",
    "TPU available:",
    "HPU available:",
    "Seed set to",
    "Loading `train_dataloader`",
)


class _NoNotices(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_NOTICES)


_FILTER = _NoNotices()


def silence_notices() -> None:
    """Drops Lightning's tips for other products, and notices that `RunSummary` replaces."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(_FILTER)


class RunSummary(Callback):
    """Logs one line with device, data, model size and run folder."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called before the first step."""
        self._log(trainer, pl_module, "train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called before `ascl validate`; validations during training are skipped."""
        if evaluated_split(trainer) is not None:
            self._log(trainer, pl_module, "val")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called before `ascl test`."""
        self._log(trainer, pl_module, "test")

    on_predict_start = on_test_start

    def _log(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        images, texts = retrieval_data(trainer).size(split)
        parameters = list(pl_module.parameters())
        total = sum(parameter.numel() for parameter in parameters)
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        place = "no files" if is_fast_dev_run(trainer) else f"files in {run_folder(trainer)}"
        device = str(pl_module.device) if trainer.world_size == 1 else f"{trainer.world_size} x {pl_module.device.type}"
        rank_zero_info(
            f"{device}, split {split}: {images:,} images, {texts:,} captions; "
            f"{_short(total)} parameters, {_short(trained)} trained; {place}"
        )


def _short(number: int) -> str:
    """A count with three significant digits.

    >>> [_short(number) for number in (7, 379_272, 86_400_000)]
    ['7', '379 K', '86.4 M']
    """
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


class ProgressLines(Callback):
    """Logs step, loss, pairs per second and time left at intervals, for log files and pipes.

    Args:
        every: Seconds between lines.
    """

    def __init__(self, every: float = 30.0) -> None:
        self._every = every
        self._start = self._last_line = 0.0
        self._pairs = self._batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = self._last_line = time.perf_counter()
        self._pairs = self._batches = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageTextBatch, batch_idx: int
    ) -> None:
        """Logs a line if the previous one is old enough."""
        self._batches += 1
        self._pairs += len(batch.image_ids) * trainer.world_size
        now = time.perf_counter()
        if now - self._last_line < self._every:
            return
        self._last_line = now
        per_epoch, epochs = int(trainer.num_training_batches), trainer.max_epochs
        limit = f"/{epochs}" if epochs is not None and epochs > 0 else ""
        done = trainer.current_epoch * per_epoch + batch_idx + 1
        left = (per_epoch * epochs - done) * (now - self._start) / self._batches if limit and epochs else None
        loss = trainer.callback_metrics.get("train/loss")
        rank_zero_info(
            f"epoch {trainer.current_epoch + 1}{limit}, batch {batch_idx + 1}/{per_epoch}"
            + ("" if loss is None else f", loss {float(loss):.3f}")
            + f", {self._pairs / (now - self._start):.0f} pairs/s"
            + ("" if left is None else f", {_duration(left)} left")
        )


def _duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds.

    >>> [_duration(seconds) for seconds in (5.0, 65.0, 10925.0)]
    ['0:05 min', '1:05 min', '3:02 h']
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
