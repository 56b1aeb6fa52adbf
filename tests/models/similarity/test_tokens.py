import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascl_lightning.models.similarity.tokens import LengthOrder, inverse_norm, scoring_dtype, token_set, unit_vectors

# used up to: 3 (with a hole), 1, nowhere, 4
MASK = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()


def test_token_set_by_hand() -> None:
    tokens = torch.tensor([[[3.0, 0.0, 0.0, 4.0], [torch.nan] * 4]])
    items = token_set(tokens, torch.tensor([[True, False]]), num_heads=2)
    assert items.heads.tolist() == [[[[3.0, 0.0], [0.0, 0.0]]], [[[0.0, 4.0], [0.0, 0.0]]]]
    assert items.bias.tolist() == [[0.0, -torch.inf]]
    assert items.share.tolist() == [[1.0, 0.0]]
    torch.testing.assert_close(items.weight, torch.tensor([[0.2, 0.0]]))
    unit = token_set(tokens, torch.tensor([[True, False]]), num_heads=1, normalize=True)
    torch.testing.assert_close(unit.heads[0, 0, 0], torch.tensor([0.6, 0.0, 0.0, 0.8]))
    torch.testing.assert_close(unit.weight, torch.tensor([[1.0, 0.0]]))


def test_an_item_without_tokens_attends_over_zeros() -> None:
    items = token_set(torch.ones(4, 4, 2), MASK, num_heads=1)
    assert items.bias[2].tolist() == [0.0] * 4
    assert not items.heads[:, 2].any()
    assert not items.share[2].any()
    assert items.lengths == (3, 1, 1, 4)


def test_an_exported_graph_gets_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, mask = torch.randn(3, 4, 6), torch.tensor([[True] * 4, [True, False] * 2, [False] * 4])
    tokens[~mask] = torch.nan
    expected = token_set(tokens, mask, num_heads=2)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    exported = token_set(tokens, mask, num_heads=2)
    for field in ("heads", "bias", "share", "weight"):
        assert torch.equal(getattr(exported, field), getattr(expected, field))
    assert (exported.gram, exported.lengths) == (None, ())


def test_split_removes_common_padding() -> None:
    tokens = torch.randn(4, 4, 6)
    items = token_set(tokens, MASK, num_heads=3)
    parts = items.split(2)
    assert [part.heads.shape for part in parts] == [(3, 2, 3, 2), (3, 2, 4, 2)]
    for part, rows in zip(parts, (slice(0, 2), slice(2, 4)), strict=True):
        alone = token_set(tokens[rows, : part.bias.shape[1]], MASK[rows, : part.bias.shape[1]], num_heads=3)
        for name, value in vars(alone).items():
            assert value == getattr(part, name) if name == "lengths" else torch.equal(value, getattr(part, name))
    assert [part.lengths for part in parts] == [(3, 1), (1, 4)]


def test_splitting_no_items_gives_one_empty_part() -> None:
    (part,) = token_set(torch.ones(0, 3, 2), torch.ones(0, 3).bool(), num_heads=1).split(5)
    assert part.lengths == ()


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_sorting_by_length_is_undone(lengths: list[int]) -> None:
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    order, items = LengthOrder(mask), torch.arange(len(lengths))
    assert (order.sort(mask).sum(1).clamp_min(1).diff() >= 0).all()
    assert torch.equal(order.unsort(order.sort(items), 0), items)
    assert torch.equal(order.unsort(order.sort(items).expand(2, -1), 1), items.expand(2, -1))


def test_scores_are_in_float32_at_least() -> None:
    half, single, double = (torch.zeros(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64))
    assert scoring_dtype(half, half) == torch.float32
    assert scoring_dtype(single, double) == torch.float64


def test_a_zero_vector_has_zero_inverse_norm_and_gradient() -> None:
    vectors = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1e-8, 0.0]], requires_grad=True)
    unit = unit_vectors(vectors)
    assert unit.tolist() == [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    unit[0].sum().backward()
    assert not vectors.grad.any()
    assert inverse_norm(torch.tensor([0.0, 4.0])).tolist() == pytest.approx([0.0, 0.5])
