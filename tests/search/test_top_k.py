import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascl_lightning.search.top_k import streamed_top_k


@given(
    queries=st.integers(0, 6),
    candidates=st.integers(1, 9),
    k=st.integers(1, 12),
    query_block=st.integers(1, 4),
    candidate_block=st.integers(1, 4),
)
@settings(max_examples=50, deadline=None)
def test_equals_sorting_each_row(queries: int, candidates: int, k: int, query_block: int, candidate_block: int) -> None:
    """Few distinct scores, so that many are equal: the lower number comes first."""
    scores = torch.randint(-2, 3, (queries, candidates)).float()
    values, numbers = streamed_top_k(
        lambda q, c: scores[q][:, c],
        queries,
        candidates,
        k,
        query_block=query_block,
        candidate_block=candidate_block,
    )
    expected = [sorted(range(candidates), key=lambda c, row=row: (-row[c], c))[:k] for row in scores.tolist()]
    assert numbers.tolist() == expected
    assert values.tolist() == [[row[c] for c in best] for row, best in zip(scores.tolist(), expected, strict=True)]


def test_nan_comes_last() -> None:
    scores = torch.tensor([[torch.nan, -1.0, 2.0]])
    assert streamed_top_k(lambda q, c: scores[q][:, c], 1, 3, 3)[1].tolist() == [[2, 1, 0]]


def test_an_empty_gallery_is_refused() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        streamed_top_k(lambda q, c: torch.zeros(len(q), len(c)), 1, 0, 1)
