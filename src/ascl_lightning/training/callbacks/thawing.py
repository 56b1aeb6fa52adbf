"""Freezes towers for the first part of training."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.training.schedule import total_steps


class Thawing(Callback):
    """Freezes towers for the first part of training (`Tuning.thaw_after`).

    Whether a tower is frozen depends on the step only, so a resumed run behaves like an uninterrupted one. The
    optimizer holds the tower's parameters from the start, but skips them while they have no gradient: it applies no
    weight decay, and its running averages start with the first gradient.

    Args:
        towers: Towers that may be frozen.
    """

    def __init__(self, towers: Sequence[Encoder]) -> None:
        self._towers = towers
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the number of steps of the training."""
        self._steps = total_steps(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Freezes or thaws each tower."""
        for tower in self._towers:
            tower.rest(trainer.global_step < round(tower.tuning.thaw_after * self._steps))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Removes the zero gradients of frozen towers."""
        for tower in self._towers:
            if tower.resting:
                for parameter in tower.parameters():
                    parameter.grad = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Thaws all towers, also if training ended early."""
        for tower in self._towers:
            tower.rest(False)
