"""Heads first, then towers."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.training.schedule import total_steps


class Thawing(Callback):
    """Lets towers rest until their share of the training is over (`Tuning.thaw_after`).

    Whether a tower rests follows from the step alone, so that a resumed run does as one that never stopped. All its
    parameters are in the optimizer from the start, and the optimizer passes over them: it neither moves nor decays
    them, and its running means begin with their first gradient.

    Args:
        towers: Those that may rest.
    """

    def __init__(self, towers: Sequence[Encoder]) -> None:
        self._towers = towers
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes down how many steps there will be."""
        self._steps = total_steps(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets each tower to rest or not."""
        for tower in self._towers:
            tower.rest(trainer.global_step < round(tower.tuning.thaw_after * self._steps))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Takes the zeros away that stand in for the gradients of resting towers."""
        for tower in self._towers:
            if tower.resting:
                for parameter in tower.parameters():
                    parameter.grad = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A tower that was not thawed, as training ended early, does not rest beyond it."""
        for tower in self._towers:
            tower.rest(False)
