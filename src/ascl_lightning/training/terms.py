"""Weights and values of the terms of the training loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ascl_lightning.runtime.distributed import mean_over_ranks


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss (docs/method.md#total).

    Args:
        type_i: Weight of L(I, T, T-).
        type_ii_iii: Weight of L(I, T+, (T+)-); a batch without T+ has the first term only.
        first_stage: Weight of the loss on independent embeddings, added to the weighted mean of the others.
        distillation: Weight of the divergence of the scores of independent embeddings from the fused scores, added too.

    Raises:
        ValueError: If a weight is negative, or those of types I and II/III are both zero.
    """

    type_i: float = 0.5
    type_ii_iii: float = 0.5
    first_stage: float = 0.0
    distillation: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.type_i, self.type_ii_iii, self.first_stage, self.distillation)
        if min(weights) < 0 or self.type_i + self.type_ii_iii == 0:
            raise ValueError(
                f"weights of the loss must not be negative, and those of types I and II/III not both 0: {weights}"
            )

    @property
    def read_embeds(self) -> bool:
        """Whether a term reads independent embeddings."""
        return self.first_stage > 0 or self.distillation > 0


@dataclass(frozen=True)
class Terms:
    """Terms of the loss over the pairs of this rank.

    Args:
        of_rank: Mean of each term over the pairs of this rank, with gradient.
        weights: Weight of each term in the loss.
        scale: Number of pairs of this rank divided by the mean over ranks. With it, gradients averaged over ranks equal
            those of a single process with all pairs.
    """

    of_rank: dict[str, Tensor]
    weights: dict[str, float]
    scale: float

    @property
    def loss(self) -> Tensor:
        """The loss to backpropagate on this rank."""
        return self.scale * torch.stack([self.weights[name] * term for name, term in self.of_rank.items()]).sum()

    def of_batch(self) -> dict[str, Tensor]:
        """The loss and its terms over the pairs of all ranks, without gradient."""
        values = torch.stack([self.loss, *(self.scale * term for term in self.of_rank.values())])
        return dict(zip(("loss", *self.of_rank), mean_over_ranks(values), strict=True))
