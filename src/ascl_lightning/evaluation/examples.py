"""Which queries of an evaluation are worth a look, and what each of them found."""

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
    """A candidate that a query found, and whether it belongs to the query."""

    number: int
    score: float
    correct: bool


@dataclass(frozen=True)
class Findings:
    """A query's best candidates, best first, and the best of those that belong to it."""

    results: list[Found]
    truth: Found


def choose_queries(ranks: Int[Tensor, " Q"], slowest: Iterable[int] = ()) -> dict[int, tuple[str, ...]]:
    """Queries to show: right and wrong ones from all over the split, the worst by rank, and the slowest.

    Args:
        ranks: Of each query, 1 is best; 0 where it is none.
        slowest: Those that took longest, of those whose time was taken.

    Returns:
        Why each query was chosen: `right`, `wrong`, `worst`, `slowest`, in this order.

    Example:
        >>> choose_queries(torch.tensor([1, 9, 0, 2]), slowest=[1])
        {0: ('right',), 1: ('wrong', 'worst', 'slowest'), 3: ('wrong', 'worst')}
    """
    wrong = (ranks > 1).nonzero().flatten()
    groups = {
        "right": _spread((ranks == 1).nonzero().flatten()),
        "wrong": _spread(wrong),
        "worst": wrong[ranks[wrong].argsort(descending=True, stable=True)[:_WORST]].tolist(),
        "slowest": slowest,
    }
    chosen: dict[int, tuple[str, ...]] = {}
    for why, queries in groups.items():
        for query in queries:
            chosen[query] = (*chosen.get(query, ()), why)
    return chosen


def find(scores: Float[Tensor, " C"], own: Bool[Tensor, " C"]) -> Findings:
    """What one query found; of equal scores, the candidate of lower number comes first.

    Args:
        scores: Of the query with every candidate.
        own: Where a candidate belongs to the query; somewhere it does.

    Example:
        >>> find(torch.tensor([0.5, 0.75, 0.25]), torch.tensor([True, False, True])).truth
        Found(number=0, score=0.5, correct=True)
    """
    order = scores.argsort(descending=True, stable=True)
    results = [_found(number, scores, own) for number in order[:NUM_RESULTS].tolist()]
    return Findings(results, _found(int(order[own[order]][0]), scores, own))


def _found(number: int, scores: Tensor, own: Tensor) -> Found:
    return Found(number, float(scores[number]), bool(own[number]))


def _spread(numbers: Int[Tensor, " n"]) -> list[int]:
    """A few of them, at even distances."""
    places = torch.linspace(0, len(numbers) - 1, min(_SPREAD, len(numbers))).long()
    chosen: list[int] = numbers[places.to(numbers.device)].tolist()
    return chosen
