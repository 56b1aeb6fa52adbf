"""Correction of hubness: items that are near to every query, and so are retrieved too often.

Source: Chowdhury et al., "Nearest Neighbor Normalization Improves Multimodal Retrieval", EMNLP 2024, arXiv 2410.24114.
The mean similarity of an item to its k nearest queries of a bank is its bias, which is subtracted from its scores. The
bank holds training queries, so a score depends on the query and the item alone, and items can be indexed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_ITEMS = 1024
_BANK = 8192


def hubness_bias(
    items: Float[Tensor, "C D"], bank: Float[Tensor, "B D"], k: int = 16, weight: float = 1.0
) -> Float[Tensor, " C"]:
    """Bias of each item: its mean dot product with the k nearest queries of a bank, times a weight.

    Args:
        items: Independent embeddings of the candidates.
        bank: Independent embeddings of training queries, of the other kind than the candidates.
        k: Number of queries, at most B.
        weight: Factor of the mean; `alpha` in the paper.

    Raises:
        ValueError: If `k` is not positive or the bank is empty.

    Example:
        >>> items, bank = torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.25]])
        >>> hubness_bias(items, bank, k=1).tolist(), hubness_bias(items, bank, k=2).tolist()
        ([1.0, 0.25], [0.75, 0.125])
    """
    if k < 1 or not len(bank):
        raise ValueError(f"the bank has {len(bank)} queries and k is {k}: both must be positive")
    biases = []
    for part in items.split(_ITEMS):
        best = part.new_empty(len(part), 0)
        for queries in bank.split(_BANK):
            both = torch.cat([best, part @ queries.T], 1)
            best = both.topk(min(k, both.shape[1]), 1, sorted=False).values
        biases.append(weight * best.mean(1))
    return torch.cat([items.new_empty(0), *biases])


def with_bias(items: Float[Tensor, "C D"], bias: Float[Tensor, " C"]) -> Float[Tensor, "C E"]:
    """Embeddings for an inner-product index: E = D + 1, the last number is the negative bias.

    A query `q` searches as `[q, 1]`; its dot products are the corrected scores.
    """
    return torch.cat([items, -bias[:, None]], 1)
