"""A moving average of the weights, which is what gets validated and kept."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from ascl_lightning.errors import UserError


class WeightAverage(WeightAveraging):
    """Exponential moving average of the weights, updated after each step (Polyak and Juditsky 1992).

    Validation, the `state_dict` of checkpoints (`best` and `last`) and the module after training have the average; a
    checkpoint also holds the weights that training goes on from. This is Lightning's `WeightAveraging` but for:

    - The average is in place until the module has scored the split. Lightning's `EMAWeightAveraging` takes it away
      before, so that averaged towers would be scored by a fusion that is not.
    - What does not change stays exactly as it is: `decay * x + (1 - decay) * x` is not always x, and stored features of
      frozen towers are only good for the very weights that made them; numbers of positions would be rounded down.
    - Frozen parameters are not stored twice, and the average lies on the device that trains. Lightning makes it on the
      CPU, before the module has moved.

    Args:
        decay: Share of the average that stays at a step; about 1 / (1 - decay) steps have a say in it.

    Raises:
        ValueError: If `decay` lies outside [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is a share from 0 to below 1, not {decay}")
        super().__init__(avg_fn=_Blend(1 - decay))
        self._in_place = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copies the module, before a fit.

        Raises:
            UserError: If the weights are to be sharded.
        """
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise UserError("sharded weights cannot be averaged: leave out WeightAverage, or choose the strategy ddp")
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Moves the average to the module's device, and has both share what is frozen."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)
        pairs = zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True)
        for averaged, current in pairs:
            if not current.requires_grad:
                averaged.data = current.data

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average in place."""
        if self._average_model is not None and not self._in_place:
            self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the average where it is: callbacks are called before the module, which now scores."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the trained weights back, before checkpoints are written."""
        if self._in_place:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Puts the trained weights back, for whatever is saved of a run that was stopped during validation."""
        if self._in_place:
            self._swap(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes up training where it was; outside of it the average is all that is wanted."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap(self, pl_module: LightningModule) -> None:
        self._swap_models(pl_module)
        self._in_place = not self._in_place


class _Blend:
    """The average after one more value."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, average: Tensor, value: Tensor, num_averaged: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return value
        return torch.lerp(average, value, self.weight)
