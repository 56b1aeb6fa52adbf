"""The learning-rate schedule, and the number of optimizer steps that it spans."""

import math
from dataclasses import dataclass

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.errors import UserError


def total_steps(trainer: Trainer) -> int:
    """Optimizer steps of a whole training.

    `Trainer.estimated_stepping_batches` would build the training loader and start its workers, which then hold a copy
    of the data from before any `on_fit_start` hook.

    Raises:
        UserError: If neither the epochs nor the steps are limited, or gradients are accumulated over batches.
    """
    if trainer.accumulate_grad_batches > 1:
        raise UserError(
            "accumulating gradients does not give the contrastive loss of a large batch, which has more negatives: "
            "remove trainer.accumulate_grad_batches and raise data.batch_size with model.chunk_size, which saves memory"
        )
    if trainer.max_epochs == -1:
        if trainer.max_steps == -1:
            raise UserError("the learning-rate schedule needs an end: set --trainer.max_epochs or --trainer.max_steps")
        return trainer.max_steps
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, RetrievalDataModule):
        return int(trainer.estimated_stepping_batches)
    batches, limit = datamodule.num_training_batches(), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = batches * max(trainer.max_epochs or 0, 1)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then cosine decay to a fraction of the peak rate.

    Args:
        warmup: Fraction of all steps in which the rate rises from 0.
        final: Rate of the last step as a fraction of the peak (the paper's code decays from 5e-4 to 1e-4: 0.2).

    Raises:
        ValueError: If a fraction is outside [0, 1].
    """

    warmup: float = 0.05
    final: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.warmup <= 1 and 0 <= self.final <= 1):
            raise ValueError(f"warmup and final are fractions between 0 and 1, not {self.warmup} and {self.final}")

    def factor(self, step: int, total_steps: int) -> float:
        """The rate of a step as a fraction of the peak.

        >>> schedule = WarmupCosine(warmup=0.5, final=0.2)
        >>> [round(schedule.factor(step, 8), 3) for step in (0, 1, 3, 4, 6, 8)]
        [0.25, 0.5, 1.0, 1.0, 0.6, 0.2]
        """
        warmup_steps = round(self.warmup * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2

    def scheduler(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        """A scheduler to step after each optimizer step."""
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))
