"""How a training goes, beside its losses: scalars for every logger."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from ascl_lightning.data.batch import ImageTextBatch
from ascl_lightning.training.accessors import retrieval_module


class TrainingProgress(Callback):
    """Logs rates, scale and speed of a training, at the steps that are logged.

    - `train/learning_rate/GROUP`, of each group of parameters with a rate of its own;
    - `train/logit_scale`, 1 / temperature: what similarities are multiplied by, and not its logarithm;
    - `train/pairs_per_second`, of all processes since the step logged before, or since the last validation or the
      beginning of the epoch, if that is later: loading counts, validation does not.

    `train/gradient_norm` is of `NonFiniteSteps`, which needs it in any case.
    """

    def __init__(self) -> None:
        self._pairs = 0
        self._since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to count."""
        self._pairs, self._since = 0, time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to count anew."""
        self._pairs, self._since = 0, time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Rates and scale of the step that comes; it and the schedule move them."""
        if _is_logged(trainer):
            rates = {group["name"].removesuffix("/no_decay"): group["lr"] for group in optimizer.param_groups}
            pl_module.log_dict({f"train/learning_rate/{name}": rate for name, rate in rates.items()})
            pl_module.log("train/logit_scale", 1 / retrieval_module(pl_module).loss.temperature())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageTextBatch, batch_idx: int
    ) -> None:
        """Counts, and logs what became of the count."""
        self._pairs += len(batch.image_ids)
        if not _is_logged(trainer):
            return
        now = time.perf_counter()
        # batches of processes differ by a pair at most
        pl_module.log("train/pairs_per_second", self._pairs * trainer.world_size / (now - self._since), prog_bar=True)
        self._pairs, self._since = 0, now


def _is_logged(trainer: Trainer) -> bool:
    return bool(trainer.loggers) and trainer._logger_connector.should_update_logs
