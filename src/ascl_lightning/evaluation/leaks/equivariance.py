"""Whether re-ranking looks at scores alone: then queries and candidates may come in any order."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Rerank = Callable[[Tensor], Tensor]
"""Given scores of all queries with all candidates, (Q, C), each query's candidates by number, best first, (Q, k)."""

_DRAWS = 3


def changed_by_order(rerank: Rerank, similarity: Float[Tensor, "Q C"]) -> int:
    """For how many queries a re-ranking changes when queries and candidates come in other orders.

    What knows which queries or candidates belong together (the sibling captions of an image lie side by side, or are
    looked up) gives other results then; what follows from scores does not. Equal scores, which an order may decide, are
    drawn apart beforehand.

    Args:
        rerank: The re-ranking.
        similarity: Scores to try it on, in which all captions of some images take part.

    Returns:
        A number of queries; 0 for an honest re-ranking.

    Example:
        >>> changed_by_order(lambda scores: scores.argsort(1, descending=True), torch.tensor([[0.1, 0.2], [0.3, 0.3]]))
        0
    """
    distinct = _drawn_apart(similarity)
    expected = rerank(distinct)
    changed = torch.zeros(len(distinct), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_DRAWS):
        queries, candidates = (torch.randperm(size, generator=generator) for size in distinct.shape)
        found = candidates[rerank(distinct[queries][:, candidates])]
        changed[queries] |= (found != expected[queries]).any(1)
    return int(changed.sum())


def _drawn_apart(similarity: Float[Tensor, "Q C"]) -> Float[Tensor, "Q C"]:
    """Scores in the same order, no two of them equal."""
    values = similarity.detach().cpu().double().flatten()
    low, high = (float(edge) for edge in values.aminmax())
    distinct = torch.empty_like(values)
    distinct[values.argsort(stable=True)] = torch.linspace(low, max(high, low + 1), len(values), dtype=values.dtype)
    return distinct.reshape(similarity.shape)
