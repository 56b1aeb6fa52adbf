"""Skips steps with a non-finite loss or gradient (docs/reliability.md#non-finite-numbers)."""

from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ascl_lightning.errors import UserError

_ADVICE = "lower the learning rate, raise the temperature, or use another precision (--trainer.precision 32-true)"


class NonFiniteSteps(Callback):
    """Skips the update of a step whose loss or gradient is not finite, and ends a run that diverges.

    A skipped step leaves weights and optimizer state unchanged, but counts as a step, also for the schedule. Logs
    `train/gradient_norm` (before clipping) and `train/skipped_steps` (so far). With 16-mixed precision a few skipped
    steps at the start are normal: they set the loss scale. Training ends with an error if more than half of its steps
    were skipped.

    Args:
        max_in_a_row: Number of consecutive skipped steps that ends the run.

    Raises:
        ValueError: If `max_in_a_row` is below 1.
    """

    def __init__(self, max_in_a_row: int = 20) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"max_in_a_row must be at least 1, not {max_in_a_row}")
        self._max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._skipped = 0
        self._loss_is_finite = True

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Checks the loss."""
        self._loss_is_finite = bool(loss.isfinite())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Removes non-finite gradients: an optimizer does not change parameters without a gradient.

        Raises:
            UserError: After `max_in_a_row` consecutive skipped steps.
        """
        norm = gradient_norm(optimizer)
        finite = self._loss_is_finite and bool(norm.isfinite())
        # all ranks step or none does, so that weights stay equal
        finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            self._in_a_row = 0
            pl_module.log("train/gradient_norm", norm)
        else:
            optimizer.zero_grad(set_to_none=True)
            self._skipped += 1
            self._in_a_row += 1
        pl_module.log("train/skipped_steps", float(self._skipped))
        if self._in_a_row >= self._max_in_a_row:
            raise UserError(
                f"{self._in_a_row} steps in a row had a non-finite loss or gradient, the last one at step "
                f"{trainer.global_step}: {_ADVICE}; the weights are those before the first of these steps"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warns about skipped steps.

        Raises:
            UserError: If more than half of the steps were skipped.
        """
        refuse_mostly_skipped(self._skipped, trainer.global_step)
        if self._skipped:
            rank_zero_warn(_share(self._skipped, trainer.global_step))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stores the number of skipped steps."""
        checkpoint["skipped_steps"] = self._skipped

    def state_dict(self) -> dict[str, int]:
        """Counts for a resumed run."""
        return {"in_a_row": self._in_a_row, "skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restores the counts."""
        self._in_a_row, self._skipped = state_dict["in_a_row"], state_dict["skipped"]


def refuse_mostly_skipped(skipped: int, steps: int) -> None:
    """Rejects a training, or its weights, if more than half of its steps were skipped.

    Args:
        skipped: Number of skipped steps.
        steps: Number of all steps.

    Raises:
        UserError: If more than half of the steps were skipped.
    """
    if 2 * skipped > steps:
        raise UserError(f"{_share(skipped, steps)}: weights are not exported; {_ADVICE}")


def _share(skipped: int, steps: int) -> str:
    return f"{skipped:,} of {steps:,} steps were skipped because of a non-finite loss or gradient"


def gradient_norm(optimizer: Optimizer) -> Float[Tensor, ""]:
    """Norm of the gradient of all parameters, the same on every rank."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    # for sharded weights this is the norm of the rank's own shard
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
