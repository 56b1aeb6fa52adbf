import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ascl_lightning.models.similarity.tiles import half_of_free_memory, score_in_tiles, tile_shape
from ascl_lightning.models.similarity.tokens import TokenSet, token_set


def make_set(num_items: int, num_tokens: int, num_heads: int = 2) -> TokenSet:
    tokens = torch.randn(num_items, num_tokens, 4, dtype=torch.float64)
    return token_set(tokens, torch.ones(num_items, num_tokens).bool(), num_heads)


@given(num_images=st.integers(0, 50), num_texts=st.integers(0, 50), budget=st.integers(1, 10**6))
@settings(max_examples=50, deadline=None)
def test_tiles_are_within_the_matrix_and_the_budget(num_images: int, num_texts: int, budget: int) -> None:
    images, texts = make_set(num_images, 3), make_set(num_texts, 5)
    with torch.no_grad():
        height, width = tile_shape(images, texts, budget)
    assert 1 <= height <= max(1, num_images)
    assert 1 <= width <= max(1, num_texts)
    scores_of_one_head = 3 * 5 * 8  # bytes for each pair, in float64
    assert height * width == 1 or height * width * scores_of_one_head <= budget


def test_tiles_shrink_with_gradients_and_with_wide_vectors() -> None:
    images, texts = make_set(40, 3, num_heads=4), make_set(40, 5, num_heads=4)
    sizes = []
    for context, wide in ((torch.no_grad(), 0), (torch.enable_grad(), 0), (torch.no_grad(), 300)):
        with context:
            height, width = tile_shape(images, texts, 200_000, pair_elements=wide)
            sizes.append(height * width)
    assert sizes[0] >= 2 * sizes[1]
    assert sizes[0] >= 10 * sizes[2]


@given(num_images=st.integers(1, 9), num_texts=st.integers(1, 9), height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_every_pair_is_scored_once(num_images: int, num_texts: int, height: int, width: int) -> None:
    rows, columns = torch.arange(float(num_images)), 100 * torch.arange(float(num_texts))
    scores = score_in_tiles(rows.split(height), columns.split(width), lambda r, c: r[:, None] + c)
    assert torch.equal(scores, rows[:, None] + columns)


@pytest.mark.parametrize("num_parts", [1, 3])
def test_tiles_do_not_store_activations(num_parts: int) -> None:
    calls: list[int] = []

    def score(rows: Tensor, columns: Tensor) -> Tensor:
        calls.append(len(rows))
        return torch.sin(rows[:, None] * columns)

    rows = torch.arange(6, dtype=torch.float64).requires_grad_()
    columns = torch.arange(1, 5, dtype=torch.float64)
    scores = score_in_tiles(rows.split(6 // num_parts), [columns], score)
    assert len(calls) == num_parts
    scores.sum().backward()
    assert len(calls) == (1 if num_parts == 1 else 2 * num_parts)
    torch.testing.assert_close(rows.grad, (columns * torch.cos(rows.detach()[:, None] * columns)).sum(1))


def test_free_memory_is_that_of_the_device() -> None:
    assert 0 < half_of_free_memory(torch.device("cpu")) <= psutil.virtual_memory().total / 2
