"""Two-stage search: a shortlist by independent embeddings, re-scored with the fused score.

The first stage costs one dot product per pair, the second attention between all tokens. The necessary length of the
shortlist differs between queries: if the first stage is confident, a few candidates suffice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.metrics.ranks import best_true_ranks
from ascl_lightning.search.top_k import ScoreBlock, streamed_top_k


@dataclass(frozen=True)
class Shortlist:
    """The candidates of Q queries that the second stage scores."""

    scores: Float[Tensor, "Q K"]
    """First-stage scores, best first."""
    candidates: Int[Tensor, "Q K"]
    """Numbers of the candidates."""
    lengths: Int[Tensor, " Q"]
    """Number of candidates of each query, 1 to K."""

    @property
    def num_pairs(self) -> int:
        """Number of pairs that the second stage scores."""
        return int(self.lengths.sum())


def shortlist(
    query_embeds: Float[Tensor, "Q D"],
    candidate_embeds: Float[Tensor, "C D"],
    length: int,
    *,
    adaptive: bool = False,
    longest: int = 4,
) -> Shortlist:
    """First stage: the nearest candidates of each query by embeddings.

    Args:
        query_embeds: Independent embeddings of the queries.
        candidate_embeds: Independent embeddings of the gallery.
        length: Number of candidates per query; with `adaptive`, the mean number.
        adaptive: Choose the length by the score margins of each query, with a total budget of Q * `length` pairs.
        longest: With `adaptive`, the maximum length as a multiple of `length`.

    Raises:
        ValueError: If `length` is not positive.
    """
    if length < 1:
        raise ValueError(f"length is {length}; a shortlist needs at least 1 candidate")
    scores, candidates = streamed_top_k(
        lambda queries, others: query_embeds[queries] @ candidate_embeds[others].T,
        len(query_embeds),
        len(candidate_embeds),
        length * longest if adaptive else length,
        device=query_embeds.device,
    )
    if adaptive:
        lengths = lengths_by_margin(scores, budget=len(scores) * length)
    else:
        lengths = torch.full((len(scores),), scores.shape[1], device=scores.device)
    return Shortlist(scores, candidates, lengths)


def lengths_by_margin(scores: Float[Tensor, "Q K"], budget: int) -> Int[Tensor, " Q"]:
    """Number of candidates per query that score within a common margin of the query's best.

    The margin is the widest within the budget. Queries whose scores drop quickly get few candidates.

    Args:
        scores: First-stage scores of each query's best candidates, best first.
        budget: Maximum number of pairs over all queries; each query keeps at least its best candidate.

    Example:
        >>> lengths_by_margin(torch.tensor([[0.9, 0.2, 0.1], [0.5, 0.49, 0.48]]), budget=4).tolist()
        [1, 3]
    """
    gaps = scores[:, :1] - scores
    if budget >= gaps.numel():
        return torch.full((len(gaps),), gaps.shape[1], device=gaps.device)
    # the first gap beyond the budget; equal gaps are excluded too
    margin = gaps.flatten().kthvalue(budget + 1).values
    return (gaps < margin).sum(1).clamp_min(1)


@torch.no_grad()
def rescore(score_block: ScoreBlock, listed: Shortlist) -> Float[Tensor, "Q K"]:
    """Second stage: fused scores of each query's shortlist, in its order; -inf beyond its length.

    Args:
        score_block: Computes the fused scores of some queries with some candidates.
        listed: Result of `shortlist`.
    """
    rows = []
    for query, (candidates, length) in enumerate(zip(listed.candidates, listed.lengths.tolist(), strict=True)):
        number = torch.tensor([query], device=candidates.device)
        scores = score_block(number, candidates[:length])
        rows.append(torch.nn.functional.pad(scores[0], (0, len(candidates) - length), value=-torch.inf))
    return torch.stack(rows)


@torch.no_grad()
def two_stage_ranks(
    score_block: ScoreBlock,
    query_embeds: Float[Tensor, "Q D"],
    candidate_embeds: Float[Tensor, "C D"],
    listed: Shortlist,
    query_groups: Int[Tensor, " Q"],
    candidate_groups: Int[Tensor, " C"],
) -> Int[Tensor, " Q"]:
    """Rank of each query's best true candidate: the shortlist by fused score, then all others by embeddings.

    As in `metrics.recall`, ties count against the true candidate, and other true candidates are not counted.

    Args:
        score_block: Computes the fused scores of some queries with some candidates.
        query_embeds: Embeddings of the queries.
        candidate_embeds: Embeddings of the candidates.
        listed: Result of `shortlist`.
        query_groups: Group of each query. Queries and candidates of the same group belong together.
        candidate_groups: Group of each candidate.

    Returns:
        Ranks from 1; 0 for a query without a true candidate.
    """
    fused = rescore(score_block, listed)
    own = candidate_groups[listed.candidates] == query_groups[:, None]
    taken = torch.arange(own.shape[1], device=own.device) < listed.lengths[:, None]
    best = fused.masked_fill(~(own & taken) | fused.isnan(), -torch.inf).amax(1, keepdim=True)
    found = 1 + (~(fused < best) & taken & ~own).sum(1)
    # the shortlist precedes all other candidates, so one that it misses keeps its first-stage rank
    missed = best_true_ranks(lambda queries: query_embeds[queries] @ candidate_embeds.T, query_groups, candidate_groups)
    return torch.where((own & taken).any(1), found, missed)
