"""Two-stage search: an exact product of independent embeddings, then the fused score of a shortlist.

The first stage costs one product of D numbers a pair, the second what attention between all tokens costs. How long the
shortlist must be differs from query to query: where the first stage is sure, a few candidates suffice.
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
    """Of the first stage, best first."""
    candidates: Int[Tensor, "Q K"]
    """Their numbers."""
    lengths: Int[Tensor, " Q"]
    """How many of them each query takes, 1 to K."""

    @property
    def num_pairs(self) -> int:
        """Pairs that the second stage scores."""
        return int(self.lengths.sum())


def shortlist(
    query_embeds: Float[Tensor, "Q D"],
    candidate_embeds: Float[Tensor, "C D"],
    length: int,
    *,
    adaptive: bool = False,
    longest: int = 4,
) -> Shortlist:
    """The first stage.

    Args:
        query_embeds: Independent embeddings of the queries.
        candidate_embeds: Independent embeddings of the gallery.
        length: Candidates of each query; with `adaptive`, of the average query.
        adaptive: Whether the length follows from the margins of each query, under the budget of Q * `length` pairs.
        longest: With `adaptive`, how many times `length` a query may take at most.

    Raises:
        ValueError: If `length` is not positive.
    """
    if length < 1:
        raise ValueError(f"a shortlist of {length} candidates finds nothing; give at least 1")
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
    """How many candidates each query takes if all take those within one margin of their best.

    The margin is the widest that keeps to the budget: a query whose first-stage scores fall off at once takes few.

    Args:
        scores: First-stage scores of each query's best candidates, best first.
        budget: Pairs of all queries together; the best candidate of each is taken in any case.

    Example:
        >>> lengths_by_margin(torch.tensor([[0.9, 0.2, 0.1], [0.5, 0.49, 0.48]]), budget=4).tolist()
        [1, 3]
    """
    gaps = scores[:, :1] - scores
    if budget >= gaps.numel():
        return torch.full((len(gaps),), gaps.shape[1], device=gaps.device)
    # the first gap that no longer fits; of equal ones, none does
    margin = gaps.flatten().kthvalue(budget + 1).values
    return (gaps < margin).sum(1).clamp_min(1)


@torch.no_grad()
def rescore(score_block: ScoreBlock, listed: Shortlist) -> Float[Tensor, "Q K"]:
    """The second stage: fused scores of each query's shortlist in its order, -inf beyond its length.

    Args:
        score_block: Gives the fused scores of some queries with some candidates.
        listed: From `shortlist`.
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
    """Rank of each query's best true candidate: shortlisted ones by their fused score, the others after them.

    As in `metrics.recall`, ties count against the true candidate, and other true ones do not compete.

    Args:
        score_block: Gives the fused scores of some queries with some candidates.
        query_embeds: Of the first stage.
        candidate_embeds: Of the first stage.
        listed: From `shortlist`.
        query_groups: A query and a candidate of the same group belong together.
        candidate_groups: See `query_groups`.

    Returns:
        Ranks from 1; 0 for a query to which no candidate belongs.
    """
    fused = rescore(score_block, listed)
    own = candidate_groups[listed.candidates] == query_groups[:, None]
    taken = torch.arange(own.shape[1], device=own.device) < listed.lengths[:, None]
    best = fused.masked_fill(~(own & taken) | fused.isnan(), -torch.inf).amax(1, keepdim=True)
    found = 1 + (~(fused < best) & taken & ~own).sum(1)
    # the shortlist lies before all others, so that whoever it missed keeps the rank of the first stage
    missed = best_true_ranks(lambda queries: query_embeds[queries] @ candidate_embeds.T, query_groups, candidate_groups)
    return torch.where((own & taken).any(1), found, missed)
