"""Re-ranking by reciprocal ranks: a good candidate also ranks the query high.

Source: Wang et al., "Matching images and text with multi-modal tensor fusion and re-ranking" (ACM MM 2019). Its
text-to-image form takes the best rank over the query's sibling captions, which are only known from the ground truth.
Here both directions use only the query; image-to-text is as published.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.metrics.ranks import best_true_ranks

_ROWS = 256
_COLUMNS = 1024


def reciprocal_rerank(similarity: Float[Tensor, "Q C"], k: int = 15) -> Int[Tensor, "Q k"]:
    """Each query's best candidates, sorted by the rank of the query among all queries for the candidate.

    Args:
        similarity: Scores of all queries with all candidates; the transpose re-ranks the other direction.
        k: Number of candidates to re-rank.

    Returns:
        Candidate numbers, best first, (Q, min(k, C)). Candidates of equal reciprocal rank keep their order.

    Example:
        >>> similarity = torch.tensor([[0.9, 0.8], [1.0, 0.1]])  # candidate 0 prefers query 1
        >>> reciprocal_rerank(similarity, k=2).tolist()
        [[1, 0], [0, 1]]
    """
    return _reranked(similarity, k)[0]


def reciprocal_ranks(similarity: Float[Tensor, "Q C"], candidates: Int[Tensor, "Q k"]) -> Int[Tensor, "Q k"]:
    """Number of queries that each candidate scores higher than the query it was retrieved for, (Q, k).

    Args:
        similarity: Scores of all queries with all candidates.
        candidates: Some candidates of each query.
    """
    ranks = torch.zeros_like(candidates)
    for start in range(0, similarity.shape[1], _COLUMNS):
        # one row per candidate, its scores sorted in ascending order
        block = similarity[:, start : start + _COLUMNS].T.contiguous()
        preferred = block.shape[1] - torch.searchsorted(block.sort(1)[0], block, right=True)
        here = (candidates >= start) & (candidates < start + _COLUMNS)
        queries = torch.arange(len(candidates), device=candidates.device)[:, None].expand_as(candidates)
        ranks[here] = preferred[candidates[here] - start, queries[here]]
    return ranks


def reranked_ranks(
    similarity: Float[Tensor, "Q C"], query_groups: Int[Tensor, " Q"], candidate_groups: Int[Tensor, " C"], k: int = 15
) -> Int[Tensor, " Q"]:
    """Rank of each query's best true candidate after `reciprocal_rerank`, which changes only the first k ranks.

    Ties count against the true candidate; other true candidates are not counted.

    Args:
        similarity: Scores of all queries with all candidates.
        query_groups: Group of each query. Queries and candidates of the same group belong together.
        candidate_groups: Group of each candidate.
        k: Number of candidates to re-rank.

    Returns:
        Ranks from 1; 0 for a query without a true candidate.
    """
    plain = best_true_ranks(lambda queries: similarity[queries], query_groups, candidate_groups)
    candidates, reciprocal = _reranked(similarity, k)
    listed_own = query_groups[:, None] == candidate_groups[candidates]
    # compare by reciprocal rank, then by score
    keys = torch.stack([-reciprocal.to(similarity.dtype), similarity.gather(1, candidates)], 2)
    place = _lexicographic_best(keys, listed_own)
    return torch.where(listed_own.any(1), place, plain)


def _reranked(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Candidates in their new order, and their reciprocal ranks, (Q, min(k, C)) each."""
    best = torch.cat([block.argsort(dim=1, descending=True, stable=True)[:, :k] for block in similarity.split(_ROWS)])
    ranks = reciprocal_ranks(similarity, best)
    order = ranks.argsort(dim=1, stable=True)
    return best.gather(1, order), ranks.gather(1, order)


def _lexicographic_best(keys: Tensor, own: Tensor) -> Tensor:
    """1 + the number of other candidates that are not below the best own one, for keys (Q, k, 2)."""
    first = keys[..., 0].masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    second = keys[..., 1].masked_fill(~own | (keys[..., 0] < first), -torch.inf).amax(1, keepdim=True)
    below = (keys[..., 0] < first) | ((keys[..., 0] == first) & (keys[..., 1] < second))
    return 1 + (~below & ~own).sum(1)
