"""Steps without a finite gradient are not taken (docs/reliability.md#non-finite-numbers)."""

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
    """Skips the update of a step whose loss or gradient is not finite, and ends a run that no longer learns.

    Weights, moments and weight decay stay as they are; the step counts, and so does the schedule. Logs
    `train/gradient_norm` (before clipping) and `train/skipped_steps` (so far). Under 16-mixed precision the loss scale
    finds its size by a few such steps at the start. A training that skipped more steps than it took ends with an error.

    Args:
        max_in_a_row: Skipped steps in a row after which the run ends.

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
        """Looks at the loss."""
        self._loss_is_finite = bool(loss.isfinite())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Takes the gradients away where they are not finite: an optimizer leaves parameters without any alone.

        Raises:
            UserError: After `max_in_a_row` such steps.
        """
        norm = gradient_norm(optimizer)
        finite = self._loss_is_finite and bool(norm.isfinite())
        # every rank steps or none does: weights must stay the same on all
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
                f"{self._in_a_row} steps in a row had a loss or gradient that is not finite, the last one at step "
                f"{trainer.global_step}: {_ADVICE}; the weights are those before the first of them"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how many steps were skipped.

        Raises:
            UserError: If they are most of all steps.
        """
        refuse_mostly_skipped(self._skipped, trainer.global_step)
        if self._skipped:
            rank_zero_warn(_share(self._skipped, trainer.global_step))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint says how many of its steps were skipped."""
        checkpoint["skipped_steps"] = self._skipped

    def state_dict(self) -> dict[str, int]:
        """Counts, for a resumed run."""
        return {"in_a_row": self._in_a_row, "skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continues the counts of the checkpoint."""
        self._in_a_row, self._skipped = state_dict["in_a_row"], state_dict["skipped"]


def refuse_mostly_skipped(skipped: int, steps: int) -> None:
    """Refuses a training, or its weights, if more steps were skipped than taken.

    Args:
        skipped: Number of skipped steps.
        steps: Number of all steps.

    Raises:
        UserError: If that is so.
    """
    if 2 * skipped > steps:
        raise UserError(f"{_share(skipped, steps)}: no weights are exported; {_ADVICE}")


def _share(skipped: int, steps: int) -> str:
    return f"{skipped:,} of {steps:,} steps were skipped, as their loss or gradient was not finite"


def gradient_norm(optimizer: Optimizer) -> Float[Tensor, ""]:
    """Length of the gradients of all parameters side by side, the same on every rank."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    # of split weights, the norm is that of this rank's part until it is asked for whole
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
