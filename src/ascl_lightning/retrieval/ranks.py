"""Ranks of true candidates where queries and candidates belong to groups, in blocks of queries."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

_QUERIES = 256


def best_true_ranks(
    score_rows: Callable[[Tensor], Float[Tensor, "q C"]],
    query_groups: Int[Tensor, " Q"],
    candidate_groups: Int[Tensor, " C"],
) -> Int[Tensor, " Q"]:
    """Rank of each query's best true candidate; ties and NaN count against it, other true ones do not compete.

    Args:
        score_rows: Gives the scores of some queries, by their numbers (q,), with all candidates.
        query_groups: A query and a candidate of the same group belong together.
        candidate_groups: See `query_groups`.

    Returns:
        Ranks from 1; 0 for a query to which no candidate belongs.
    """
    numbers = torch.arange(len(query_groups), device=query_groups.device)
    ranks = []
    for queries, groups in zip(numbers.split(_QUERIES), query_groups.split(_QUERIES), strict=True):
        scores, own = score_rows(queries), groups[:, None] == candidate_groups
        best = scores.masked_fill(~own | scores.isnan(), -torch.inf).amax(1, keepdim=True)
        ranks.append((1 + (~(scores < best) & ~own).sum(1)) * own.any(1))
    return torch.cat(ranks)
