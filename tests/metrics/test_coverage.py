"""Coverage of the confidence intervals; `benchmarks/coverage.py` measures it for all metrics."""

import numpy as np
import pytest

from ascl_lightning.metrics.intervals import compare, figure_intervals, mean_interval
from ascl_lightning.metrics.query_results import Queries

REPLICATES = 2000
NUM_IMAGES = 200


@pytest.mark.parametrize("recall", [0.05, 0.5, 0.95])
def test_recalls_of_one_to_nine_captions(recall):
    # captions of an image agree: their chance of a hit is drawn for the image
    concentration = 4.0
    held = 0
    for replicate in range(REPLICATES):
        generator = np.random.default_rng(replicate)
        chance = generator.beta(concentration * recall, concentration * (1 - recall), NUM_IMAGES)
        clusters = np.repeat(np.arange(NUM_IMAGES), generator.integers(1, 10, NUM_IMAGES))
        interval = mean_interval(generator.random(len(clusters)) < chance[clusters], clusters, draws=300)
        held += interval.low <= recall <= interval.high

    assert 0.93 <= held / REPLICATES <= 0.97


def test_intervals_from_independent_captions_would_be_too_narrow():
    # captions treated as independent: too low coverage
    held = 0
    for replicate in range(400):
        generator = np.random.default_rng(replicate)
        clusters = np.repeat(np.arange(NUM_IMAGES), generator.integers(1, 10, NUM_IMAGES))
        hits = generator.random(len(clusters)) < generator.beta(2, 2, NUM_IMAGES)[clusters]
        interval = mean_interval(hits, np.arange(len(hits)), draws=100)
        held += interval.low <= 0.5 <= interval.high

    assert held / 400 < 0.88


def make_queries(generator, num_images, num_runs=1):
    """Equally good runs on the same images, some of which are hard for all; R@1 is about 3%, R@10 about 90%."""
    image_of_text = np.repeat(np.arange(num_images), generator.integers(1, 10, num_images))
    hardness = generator.normal(1.4, 0.6, num_images)

    def ranks(of):
        return 1 + np.exp(of + 0.5 * generator.standard_normal(len(of))).astype(np.int64)

    names = list(map(str, range(num_images)))
    return [
        Queries.from_ranks(ranks(hardness), ranks(hardness[image_of_text]), image_of_text, names)
        for _ in range(num_runs)
    ]


@pytest.mark.slow
def test_all_figures():
    (population,) = make_queries(np.random.default_rng(0), 200_000)
    truth = {name: interval.value for name, interval in figure_intervals(population, draws=2).items()}
    held = dict.fromkeys(truth, 0)
    for replicate in range(REPLICATES):
        (queries,) = make_queries(np.random.default_rng((1, replicate)), NUM_IMAGES)
        for name, interval in figure_intervals(queries, draws=300).items():
            held[name] += interval.low <= truth[name] <= interval.high

    covered = {name: number / REPLICATES for name, number in held.items()}
    assert min(covered.values()) >= 0.93, covered
    # medians are integers, so their intervals are conservative
    assert max(share for name, share in covered.items() if "median" not in name) <= 0.97, covered


@pytest.mark.slow
def test_equally_good_runs_are_seldom_told_apart():
    found: dict[str, int] = {}
    any_found = 0
    for replicate in range(REPLICATES):
        differences = compare(*make_queries(np.random.default_rng((2, replicate)), 60, num_runs=2), draws=300)
        for name, difference in differences.items():
            found[name] = found.get(name, 0) + (difference.p_value <= 0.05)
        any_found += any(difference.holm_p_value <= 0.05 for difference in differences.values())

    # two standard errors of a share of 5% of 2,000
    assert max(found.values()) / REPLICATES <= 0.05 + 0.01
    assert found["rsum"] / REPLICATES >= 0.04
    assert any_found / REPLICATES <= 0.05
