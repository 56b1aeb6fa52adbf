"""Exponential moving average of the weights, used for validation and checkpoints."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from ascl_lightning.errors import UserError


class WeightAverage(WeightAveraging):
    """Exponential moving average of the weights, updated after each step (Polyak and Juditsky 1992).

    Validation, the `state_dict` of checkpoints (`best` and `last`) and the module after training use the average;
    checkpoints also hold the trained weights, for a resume. Differences from Lightning's `EMAWeightAveraging`:

    - The average stays in place until the module has scored the split. Lightning removes it earlier, so that averaged
      towers would be scored by a fusion that is not averaged.
    - Weights that do not change stay bitwise equal. `decay * x + (1 - decay) * x` may differ from x, but stored
      features of frozen towers are only valid for the exact weights. Integer buffers are copied, not averaged.
    - Frozen parameters are not stored twice, and the average is on the training device. Lightning creates it on the
      CPU, before the module is moved.

    Args:
        decay: Weight of the previous average at each step; the average spans about 1 / (1 - decay) steps.

    Raises:
        ValueError: If `decay` lies outside [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        super().__init__(avg_fn=_Blend(1 - decay))
        self._in_place = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copies the module before training.

        Raises:
            UserError: If the strategy shards weights.
        """
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise UserError("sharded weights cannot be averaged: remove WeightAverage, or use the strategy ddp")
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Moves the average to the module's device, and shares frozen parameters."""
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
        """Keeps the average in place: the module scores the split after this hook."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the trained weights back, before checkpoints are written."""
        if self._in_place:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Puts the trained weights back if the run stops during validation."""
        if self._in_place:
            self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves the average as `state_dict` and the trained weights apart, also while they are swapped."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._in_place:
            trained, average = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint |= {"state_dict": average, "current_model_state": trained}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores both in training; evaluation needs only the average."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap(self, pl_module: LightningModule) -> None:
        self._swap_models(pl_module)
        self._in_place = not self._in_place


class _Blend:
    """Update rule of the average."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, average: Tensor, value: Tensor, num_averaged: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return value
        return torch.lerp(average, value, self.weight)
