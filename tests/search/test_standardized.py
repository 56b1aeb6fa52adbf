import statistics

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ascl_lightning.evaluation.leaks.probes import changed_by_order
from ascl_lightning.search import standardized_sum


def naive_sum(levels: list[tuple[float, Tensor]]) -> list[list[float]]:
    rows = []
    for query in range(len(levels[0][1])):
        total = [0.0] * levels[0][1].shape[1]
        for weight, scores in levels:
            row = scores[query].tolist()
            centre, spread = statistics.fmean(row), statistics.pstdev(row)
            total = [
                old + (weight * (score - centre) / spread if spread else 0)
                for old, score in zip(total, row, strict=True)
            ]
        rows.append(total)
    return rows


@given(seed=st.integers(0, 10**6), weight=st.floats(0.01, 0.99))
@settings(max_examples=20, deadline=None)
def test_equals_the_naive_loop(seed: int, weight: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    levels = [(share, torch.randn(4, 6, generator=generator, dtype=torch.float64)) for share in (weight, 1 - weight)]
    levels[0][1][2] = 0.1
    expected = torch.tensor(naive_sum(levels), dtype=torch.float64)
    torch.testing.assert_close(standardized_sum(levels), expected, rtol=0, atol=1e-12)


def test_scale_and_offset_of_a_level_do_not_matter() -> None:
    local, overall = torch.randn(2, 3, 5, dtype=torch.float64)
    scaled = standardized_sum([(0.5, 0.01 * local + 7), (0.5, overall)])
    torch.testing.assert_close(scaled, standardized_sum([(0.5, local), (0.5, overall)]))


def test_a_query_depends_on_itself_and_the_gallery_alone() -> None:
    first, second = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    whole = standardized_sum([(0.3, first), (0.7, second)])
    torch.testing.assert_close(standardized_sum([(0.3, first[2:3]), (0.7, second[2:3])]), whole[2:3])
    assert not changed_by_order(lambda scores: standardized_sum([(1.0, scores)]).argsort(1, descending=True), first)


def test_a_constant_level_counts_nothing_in_single_precision() -> None:
    constant, scores = torch.full((1, 7), 0.1), torch.arange(7.0)[None]
    assert torch.equal(standardized_sum([(0.9, constant), (0.1, scores)]), standardized_sum([(0.1, scores)]))
