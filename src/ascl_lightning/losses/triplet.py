"""Triplet losses with a margin: the sum over all negatives, or the hardest negative alone."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from ascl_lightning.losses.base import ContrastiveLoss, PairScores
from ascl_lightning.losses.info_nce import Direction, both_directions

Mining = Literal["sum", "hardest"]


class TripletLoss(ContrastiveLoss):
    """max(0, margin - s(positive) + s(negative)) in both directions, over the negatives of the batch.

    Source: Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", BMVC 2018: equation 5
    sums over all negatives, equation 6 takes the hardest. Rows are averaged here and summed there. Other texts of the
    same image are no negatives, and perturbed texts are ignored. It has no temperature.

    Args:
        margin: Difference of similarity from which on a negative costs nothing.
        mining: `"sum"` over all negatives of a row, or the `"hardest"` one.

    Raises:
        ValueError: If the margin is not positive or the mining is unknown.

    Example:
        >>> import torch
        >>> loss = TripletLoss(margin=0.25, mining="sum")
        >>> loss(PairScores(torch.zeros(3, 3))).item()  # two negatives in each of two directions
        1.0
    """

    uses_negatives: bool = False

    def __init__(self, margin: float = 0.2, mining: Mining = "hardest") -> None:
        super().__init__(temperature=None)
        if margin <= 0:
            raise ValueError(f"the margin must be a positive number, not {margin}")
        if mining not in get_args(Mining):
            raise ValueError(f"mining must be one of {', '.join(get_args(Mining))}, not {mining!r}")
        self.margin = margin
        self.mining: Mining = mining

    def forward(self, scores: PairScores) -> Float[Tensor, ""]:
        """The sum of both directions, each averaged over its rows."""
        images, texts = both_directions(scores)
        return images.mean(self._hinges) + texts.mean(self._hinges)

    def _hinges(self, rows: Direction) -> Float[Tensor, " R"]:
        costs = (self.margin - rows.positives[:, None] + rows.similarity).clamp(min=0)
        costs = costs.scatter(1, rows.targets[:, None], 0.0)
        if rows.masked is not None:
            costs = costs.masked_fill(rows.masked, 0.0)
        return costs.sum(1) if self.mining == "sum" else costs.amax(1)
