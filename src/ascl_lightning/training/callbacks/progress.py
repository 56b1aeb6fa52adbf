"""Logs learning rates, logit scale and speed of a training."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from ascl_lightning.data.batch import ImageTextBatch


class TrainingProgress(Callback):
    """Logs at each logged step.

    - `train/learning_rate/GROUP` for each parameter group;
    - `train/pairs_per_second` over all ranks since the previous logged step, or since the last validation or the start
      of the epoch if that is later. The time includes data loading, but not validation.

    `NonFiniteSteps` logs `train/gradient_norm`, which it computes anyway.
    """

    def __init__(self) -> None:
        self._pairs = 0
        self._since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the count of pairs."""
        self._pairs, self._since = 0, time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restarts the count of pairs."""
        self._pairs, self._since = 0, time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Logs learning rates before the optimizer and the schedule change them."""
        if _is_logged(trainer):
            rates = {group["name"].removesuffix("/no_decay"): group["lr"] for group in optimizer.param_groups}
            pl_module.log_dict({f"train/learning_rate/{name}": rate for name, rate in rates.items()})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageTextBatch, batch_idx: int
    ) -> None:
        """Counts pairs and logs the speed."""
        self._pairs += len(batch.image_ids)
        if not _is_logged(trainer):
            return
        now = time.perf_counter()
        # batch sizes of ranks differ by at most one pair
        pl_module.log("train/pairs_per_second", self._pairs * trainer.world_size / (now - self._since), prog_bar=True)
        self._pairs, self._since = 0, now


def _is_logged(trainer: Trainer) -> bool:
    return bool(trainer.loggers) and trainer._logger_connector.should_update_logs
