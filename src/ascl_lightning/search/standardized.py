"""Levels of a score joined after standardising each over the candidates of a query.

Levels have different spreads: cosines of regions vary less between candidates than those of global vectors. A fixed
weight then means something else for each query. Standardised, every level has mean 0 and standard deviation 1 over the
candidates of every query. The result depends on the query and the gallery, never on which candidates are true; as it
depends on the whole gallery, it can re-rank but not train.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def standardized_sum(levels: Sequence[tuple[float, Float[Tensor, "Q C"]]]) -> Float[Tensor, "Q C"]:
    """Weighted sum of the z-scores of each level over the candidates of a query.

    Args:
        levels: Weight and scores of each level, queries in rows; the transpose joins the other direction.

    Returns:
        Joined scores. A level that is constant for a query counts 0 for it.

    Example:
        >>> local, overall = torch.tensor([[0.50, 0.52]]), torch.tensor([[0.9, 0.1]])
        >>> standardized_sum([(0.75, local), (0.25, overall)]).round(decimals=4).tolist()
        [[-0.5, 0.5]]
    """
    return torch.stack([weight * _standardized(scores) for weight, scores in levels]).sum(0)


def _standardized(scores: Tensor) -> Tensor:
    centred = scores - scores.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    # the mean of equal scores may round, and dividing by that error would rank noise
    is_constant = scores.amax(1, keepdim=True) == scores.amin(1, keepdim=True)
    return torch.where(is_constant, 0.0, centred / spread)
