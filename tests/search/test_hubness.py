from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ascl_lightning.evaluation.leaks.probes import changed_by_order
from ascl_lightning.search import hubness, hubness_bias, with_bias


def naive_bias(items: Tensor, bank: Tensor, k: int, weight: float) -> list[float]:
    biases = []
    for item in items:
        nearest = sorted((float(item @ query) for query in bank), reverse=True)[:k]
        biases.append(weight * sum(nearest) / len(nearest))
    return biases


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), part=st.integers(1, 9), weight=st.floats(0, 2))
@settings(max_examples=30, deadline=None)
def test_equals_the_naive_loop_in_parts_of_any_size(seed: int, k: int, part: int, weight: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    items, bank = (torch.randn(count, 3, generator=generator, dtype=torch.float64) for count in (5, 9))
    with mock.patch.object(hubness, "_ITEMS", part), mock.patch.object(hubness, "_BANK", part):
        bias = hubness_bias(items, bank, k, weight)
    torch.testing.assert_close(bias, torch.tensor(naive_bias(items, bank, k, weight)).double())


def test_an_inner_product_index_gives_corrected_scores() -> None:
    items, queries = torch.randn(4, 3), torch.randn(2, 3)
    bias = torch.arange(4.0)
    scores = torch.cat([queries, torch.ones(2, 1)], 1) @ with_bias(items, bias).T
    torch.testing.assert_close(scores, queries @ items.T - bias)


def test_a_hub_loses_its_place() -> None:
    """Item 0 is nearest to both queries, and to every training query; corrected, each query finds its own item."""
    items = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.4], [0.0, 0.4, 1.0]])
    bank = torch.tensor([[1.0, 0.5, 0.5], [1.0, 0.3, 0.6]])
    queries = torch.tensor([[0.2, 0.9, 0.1], [0.2, 0.1, 0.9]])
    scores = queries @ items.T
    assert scores.argmax(1).tolist() == [0, 0]
    corrected = scores - hubness_bias(items, bank, k=2)
    assert corrected.argmax(1).tolist() == [1, 2]
    assert not changed_by_order(lambda given: given.argsort(1, descending=True), corrected)


@pytest.mark.parametrize(("k", "size"), [(0, 3), (2, 0)])
def test_an_empty_neighbourhood_raises(k: int, size: int) -> None:
    with pytest.raises(ValueError, match="both must be positive"):
        hubness_bias(torch.ones(2, 3), torch.ones(size, 3), k)
