"""Choice of example queries of an evaluation, and their results."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NUM_RESULTS = 5
_SPREAD = 4
_WORST = 3


@dataclass(frozen=True)
class Found:
    """A retrieved candidate, and whether it belongs to the query."""

    number: int
    score: float
    correct: bool


@dataclass(frozen=True)
class SearchResult:
    """A query's best candidates, best first, and its best true candidate."""

    results: list[Found]
    truth: Found


def choose_queries(ranks: Int[Tensor, " Q"], slowest: Iterable[int] = ()) -> dict[int, tuple[str, ...]]:
    """Chooses evenly spaced right and wrong queries, the worst by rank, and the slowest.

    Args:
        ranks: Rank of each query from 1; 0 for items that are not queries.
        slowest: The slowest of the timed queries.

    Returns:
        For each chosen query the reasons: `right`, `wrong`, `worst`, `slowest`, in this order.

    Example:
        >>> choose_queries(torch.tensor([1, 9, 0, 2]), slowest=[1])
        {0: ('right',), 1: ('wrong', 'worst', 'slowest'), 3: ('wrong', 'worst')}
    """
    wrong = (ranks > 1).nonzero().flatten()
    groups = {
        "right": spread((ranks == 1).nonzero().flatten(), _SPREAD).tolist(),
        "wrong": spread(wrong, _SPREAD).tolist(),
        "worst": wrong[ranks[wrong].argsort(descending=True, stable=True)[:_WORST]].tolist(),
        "slowest": slowest,
    }
    chosen: dict[int, tuple[str, ...]] = {}
    for why, queries in groups.items():
        for query in queries:
            chosen[query] = (*chosen.get(query, ()), why)
    return chosen


def find(scores: Float[Tensor, " C"], own: Bool[Tensor, " C"]) -> SearchResult:
    """Results of one query; ties are ordered by number.

    Args:
        scores: Scores of the query with all candidates.
        own: Whether each candidate belongs to the query; at least one does.

    Example:
        >>> find(torch.tensor([0.5, 0.75, 0.25]), torch.tensor([True, False, True])).truth
        Found(number=0, score=0.5, correct=True)
    """
    order = scores.argsort(descending=True, stable=True)
    results = [_found(number, scores, own) for number in order[:NUM_RESULTS].tolist()]
    return SearchResult(results, _found(int(order[own[order]][0]), scores, own))


def _found(number: int, scores: Tensor, own: Tensor) -> Found:
    return Found(number, float(scores[number]), bool(own[number]))


def spread(numbers: Int[Tensor, " n"], count: int) -> Int[Tensor, " m"]:
    """Up to `count` evenly spaced elements.

    Example:
        >>> spread(torch.arange(9), 3).tolist(), spread(torch.arange(2), 3).tolist()
        ([0, 4, 8], [0, 1])
    """
    places = torch.linspace(0, len(numbers) - 1, min(count, len(numbers)), device=numbers.device)
    return numbers[places.long()]
