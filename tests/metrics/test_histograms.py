import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascl_lightning.metrics.histograms import BINS, score_histograms


@given(st.integers(1, 300), st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_equals_numpy_on_all_scores_at_once(num_images, captions, seed):
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(num_images, (num_images * captions,), generator=generator)
    similarity = torch.randn(num_images, len(owner), generator=generator)
    negatives = torch.randn(7, generator=generator) * 3
    found = score_histograms(similarity, owner, {"T-": negatives})
    own = owner.numpy() == np.arange(num_images)[:, None]
    everything = np.concatenate([similarity.double().numpy().ravel(), negatives.double().numpy()])
    edges = np.linspace(everything.min(), everything.max(), BINS + 1)
    np.testing.assert_allclose(found.edges, edges)
    for kind, scores in (("positive", similarity[own]), ("other", similarity[~own]), ("T-", negatives)):
        assert found.counts[kind] == np.histogram(scores.double().numpy(), found.edges)[0].tolist()
    assert sum(found.counts["positive"]) + sum(found.counts["other"]) == similarity.numel()


def test_non_finite_scores_are_not_counted():
    similarity = torch.tensor([[0.0, torch.nan, torch.inf, 1.0]])
    found = score_histograms(similarity, torch.zeros(4, dtype=torch.long), {})
    assert sum(found.counts["positive"]) == 2
    assert (found.edges[0], found.edges[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.5, torch.nan])
def test_bins_have_a_positive_width_if_all_scores_are_equal(value):
    found = score_histograms(torch.full((2, 2), value), torch.tensor([0, 1]), {})
    assert len(found.edges) == BINS + 1
    assert found.edges[-1] - found.edges[0] == pytest.approx(1)
