"""Top-k candidates of all queries, without the full score matrix."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

ScoreBlock = Callable[[Tensor, Tensor], Tensor]
"""Computes the scores (q, c) of q query numbers with c candidate numbers."""


@torch.no_grad()
def streamed_top_k(
    score_block: ScoreBlock,
    num_queries: int,
    num_candidates: int,
    k: int,
    *,
    device: torch.device | str = "cpu",
    query_block: int = 256,
    candidate_block: int = 4096,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """Scores and numbers of each query's top-k candidates, best first; ties are ordered by number.

    Args:
        score_block: Computes the scores of a tile.
        num_queries: Number of queries Q.
        num_candidates: Number of candidates C.
        k: Number of candidates to return per query, at most C.
        device: Device of the numbers passed to `score_block`.
        query_block: Maximum number of queries in a tile.
        candidate_block: Maximum number of candidates in a tile.

    Returns:
        Scores and candidate numbers, each (Q, min(k, C)).

    Raises:
        ValueError: If there is no candidate.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9, 0.5]])
        >>> streamed_top_k(lambda q, c: scores[q][:, c], 1, 3, k=2)[1].tolist()
        [[1, 2]]
    """
    if num_candidates < 1:
        raise ValueError("there is no candidate to choose from")
    rows = [
        _top_k_of_block(score_block, queries, num_candidates, k, candidate_block)
        for queries in torch.arange(num_queries, device=device).split(query_block)
    ]
    values, numbers = zip(*rows, strict=True)
    return torch.cat(values), torch.cat(numbers)


def _top_k_of_block(
    score_block: ScoreBlock, queries: Tensor, num_candidates: int, k: int, candidate_block: int
) -> tuple[Tensor, Tensor]:
    """Top-k of some queries, merged tile by tile."""
    values, numbers = torch.zeros(len(queries), 0, device=queries.device), queries.new_zeros(len(queries), 0)
    for candidates in torch.arange(num_candidates, device=queries.device).split(candidate_block):
        scores = score_block(queries, candidates)
        of_tile = torch.cat([numbers, candidates.expand_as(scores)], 1)
        scores = torch.cat([values.to(scores.dtype), scores], 1)
        # a stable sort, because topk breaks ties arbitrarily; NaN would come first
        order = torch.where(scores.isnan(), -torch.inf, scores).argsort(dim=1, descending=True, stable=True)[:, :k]
        values, numbers = scores.gather(1, order), of_tile.gather(1, order)
    return values, numbers
