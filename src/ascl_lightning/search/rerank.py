"""Re-ranking by reciprocal ranks: a good candidate would also find the query.

Source: Wang et al., "Matching images and text with multi-modal tensor fusion and re-ranking" (ACM MM 2019). Its
text-to-image form takes the best rank over the query's sibling captions, which only the ground truth can know. Here
both directions use the query alone; image-to-text is as published.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.metrics.ranks import best_true_ranks

_ROWS = 256
_COLUMNS = 1024


def reciprocal_rerank(similarity: Float[Tensor, "Q C"], k: int = 15) -> Int[Tensor, "Q k"]:
    """Each query's best candidates, in the order of the ranks that the query has among all queries for them.

    Args:
        similarity: Of every query with every candidate; its transpose re-ranks the other direction.
        k: How many of the best candidates are put into a new order.

    Returns:
        Candidate numbers, best first, (Q, min(k, C)). Candidates of equal reciprocal rank keep their order.

    Example:
        >>> similarity = torch.tensor([[0.9, 0.8], [1.0, 0.1]])  # candidate 0 prefers query 1
        >>> reciprocal_rerank(similarity, k=2).tolist()
        [[1, 0], [0, 1]]
    """
    best = torch.cat([block.argsort(dim=1, descending=True, stable=True)[:, :k] for block in similarity.split(_ROWS)])
    order = reciprocal_ranks(similarity, best).argsort(dim=1, stable=True)
    return best.gather(1, order)


def reciprocal_ranks(similarity: Float[Tensor, "Q C"], candidates: Int[Tensor, "Q k"]) -> Int[Tensor, "Q k"]:
    """How many queries each candidate prefers to the one that it was found for, (Q, k).

    Args:
        similarity: Of every query with every candidate.
        candidates: Some candidates of each query.
    """
    ranks = torch.zeros_like(candidates)
    for start in range(0, similarity.shape[1], _COLUMNS):
        # of each candidate, the scores of all queries from the lowest
        block = similarity[:, start : start + _COLUMNS].T.contiguous()
        preferred = block.shape[1] - torch.searchsorted(block.sort(1)[0], block, right=True)
        here = (candidates >= start) & (candidates < start + _COLUMNS)
        queries = torch.arange(len(candidates), device=candidates.device)[:, None].expand_as(candidates)
        ranks[here] = preferred[candidates[here] - start, queries[here]]
    return ranks


def reranked_ranks(
    similarity: Float[Tensor, "Q C"], query_groups: Int[Tensor, " Q"], candidate_groups: Int[Tensor, " C"], k: int = 15
) -> Int[Tensor, " Q"]:
    """Rank of each query's best true candidate after `reciprocal_rerank`; beyond its k candidates nothing moves.

    Ties count against the true candidate, and other true ones do not compete.

    Args:
        similarity: Of every query with every candidate.
        query_groups: A query and a candidate of the same group belong together.
        candidate_groups: See `query_groups`.
        k: As in `reciprocal_rerank`.

    Returns:
        Ranks from 1; 0 for a query to which no candidate belongs.
    """
    plain = best_true_ranks(lambda queries: similarity[queries], query_groups, candidate_groups)
    candidates = reciprocal_rerank(similarity, k)
    listed_own = query_groups[:, None] == candidate_groups[candidates]
    # reciprocal ranks first, then the scores: one number to compare by
    keys = torch.stack(
        [-reciprocal_ranks(similarity, candidates).to(similarity.dtype), similarity.gather(1, candidates)], 2
    )
    place = _lexicographic_best(keys, listed_own)
    return torch.where(listed_own.any(1), place, plain)


def _lexicographic_best(keys: Tensor, own: Tensor) -> Tensor:
    """1 + the number of candidates that are not own and not below the best own one, of keys (Q, k, 2)."""
    first = keys[..., 0].masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    second = keys[..., 1].masked_fill(~own | (keys[..., 0] < first), -torch.inf).amax(1, keepdim=True)
    below = (keys[..., 0] < first) | ((keys[..., 0] == first) & (keys[..., 1] < second))
    return 1 + (~below & ~own).sum(1)
