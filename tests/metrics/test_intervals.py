import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import sem, t

from ascl_lightning.metrics.intervals import (
    Difference,
    Interval,
    compare,
    figure_intervals,
    fold_intervals,
    holm,
    mean_interval,
    spread,
)
from ascl_lightning.metrics.query_results import Queries
from ascl_lightning.metrics.recall import metrics_from_ranks


def make_queries(image_ranks, text_ranks, image_of_text, **shares):
    ids = [f"image {i}" for i in range(len(image_ranks))]
    numbers = (np.array(values, dtype=np.int64) for values in (image_ranks, text_ranks, image_of_text))
    return Queries.from_ranks(*numbers, ids, **shares)


def random_queries(seed, num_images=40):
    """1 to 9 captions per image, with equal ranks among them."""
    generator = np.random.default_rng(seed)
    image_of_text = np.repeat(np.arange(num_images), np.random.default_rng(1).integers(1, 10, num_images))
    spread = generator.gamma(1.0, 8.0, num_images)
    image_ranks = 1 + generator.poisson(spread)
    return make_queries(image_ranks, 1 + generator.poisson(spread[image_of_text]), image_of_text)


@st.composite
def ranks(draw):
    """Any ranks, also of images without text, which are not queries."""
    image_of_text = draw(st.lists(st.integers(0, 5), min_size=1, max_size=20))
    rank = st.integers(1, 30)
    image_ranks = [draw(rank) if i in image_of_text else 0 for i in range(6)]
    text_ranks = draw(st.lists(rank, min_size=len(image_of_text), max_size=len(image_of_text)))
    return image_ranks, text_ranks, image_of_text


@given(ranks=ranks())
@settings(deadline=None)
def test_values_are_those_of_the_ranks(ranks):
    expected = metrics_from_ranks(*map(torch.tensor, ranks[:2]))

    intervals = figure_intervals(make_queries(*ranks), draws=20)

    assert {name: interval.value for name, interval in intervals.items()} == pytest.approx(expected)


def test_an_interval_by_hand():
    # 4 images of one text each, 1 hit: drawn with replacement, the number of hits is binomial (4, 1/4), so the standard
    # error of the share is sqrt(1/4 * 3/4 / 4), that of 4 independent queries; Wilson's interval of 1 in 4 is known
    interval = mean_interval(np.array([1.0, 0, 0, 0]), np.arange(4), draws=200_000)

    assert interval.value == 0.25
    assert interval.low == pytest.approx(0.0456, abs=5e-4)
    assert interval.high == pytest.approx(0.6994, abs=2e-3)


def test_captions_of_an_image_stay_together():
    # five captions that always agree are worth one
    values = np.array([1.0, 0, 0, 0, 1, 1, 0, 1])
    alone = mean_interval(values, np.arange(8), draws=2000)

    together = mean_interval(values.repeat(5), np.arange(8).repeat(5), draws=2000)

    assert together == alone


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 3.6994), (100.0, 96.3006, 100.0)])
def test_recalls_of_0_and_100_have_an_interval_of_positive_width(value, low, high):
    # Wilson: 1.96^2 / (100 + 1.96^2) = 3.6994%
    rank = 1 if value else 11
    queries = make_queries([rank] * 100, [rank] * 100, range(100))

    intervals = figure_intervals(queries, draws=50)

    for name in ("image_to_text/recall_at_10", "text_to_image/recall_at_1"):
        assert (intervals[name].low, intervals[name].high) == pytest.approx((low, high), abs=1e-4)
    assert (intervals["rsum"].low, intervals["rsum"].high) == pytest.approx((6 * low, 6 * high), abs=6e-4)


def test_draws_depend_on_the_seed_and_not_on_blocks(monkeypatch):
    queries = random_queries(0)
    expected = figure_intervals(queries, draws=100)
    monkeypatch.setattr("ascl_lightning.metrics.resampling._CELLS", 300)

    assert figure_intervals(queries, draws=100) == expected
    assert figure_intervals(queries, draws=100, seed=1) != expected


def test_medians_are_those_of_the_drawn_ranks():
    queries = random_queries(3)
    rows = queries.text_to_image
    generator = np.random.default_rng((0, 0))
    medians = []
    for drawn in generator.integers(40, size=(500, 40)):
        ranks = np.concatenate([rows.rank[rows.image == image] for image in drawn])
        medians.append(math.floor(np.median(ranks - 1)) + 1)

    interval = figure_intervals(queries, draws=500)["text_to_image/median_rank"]

    assert (interval.low, interval.high) == tuple(np.quantile(medians, (0.025, 0.975)))


def test_folds_are_averaged():
    first, second = make_queries([1, 2], [1, 2], [0, 1]), make_queries([2, 2], [2, 2], [0, 1])

    intervals = fold_intervals([first, second], draws=50)

    assert intervals["image_to_text/recall_at_1"].value == 25
    assert intervals["image_to_text/mean_rank"].value == 1.75
    assert fold_intervals([first], draws=50) == figure_intervals(first, draws=50)


def test_shares_are_percentages():
    shares = {"ndcg": np.array([0.5, 1.0])}
    queries = make_queries([1, 1], [1, 1], [0, 1], image_to_text=shares)

    intervals = figure_intervals(queries, draws=50)

    assert intervals["image_to_text/ndcg"].value == 75
    assert "text_to_image/ndcg" not in intervals


def test_a_run_does_not_differ_from_itself():
    queries = random_queries(0)

    for difference in compare(queries, queries, draws=100).values():
        assert difference == Difference(difference.a, difference.a, 0.0, 0.0, 0.0, p_value=1.0, holm_p_value=1.0)


def test_p_values_by_hand():
    # B is better on all of 6 images: of the 64 ways to swap, 2 give a difference as large
    a = make_queries([2] * 6, [2] * 6, list(range(6)))
    b = make_queries([1] * 6, [1] * 6, range(6))

    difference = compare(a, b, draws=100_000)["text_to_image/recall_at_1"]

    assert (difference.a, difference.b, difference.value) == (0, 100, 100)
    assert difference.p_value == pytest.approx(2 / 64, abs=2e-3)


def test_swapped_figures_are_those_of_swapped_runs():
    a, b = random_queries(0), random_queries(1)
    observed = {name: d.value for name, d in compare(a, b, draws=1).items()}
    as_large = dict.fromkeys(observed, 1)
    generator = np.random.default_rng((0, 1))
    for swap in generator.integers(2, size=(60, 40)).astype(bool):
        mixed = [figure_intervals(one, draws=1) for one in (mix(a, b, swap), mix(b, a, swap))]
        for name in observed:
            as_large[name] += abs(mixed[1][name].value - mixed[0][name].value) >= abs(observed[name]) - 1e-9

    differences = compare(a, b, draws=60)

    assert {name: d.p_value for name, d in differences.items()} == {name: n / 61 for name, n in as_large.items()}


def mix(a, b, swap):
    """Queries of A, with those of B for swapped images."""
    ranks = [np.where(swap[rows.image], getattr(b, way).rank, rows.rank) for way, rows in a.directions().items()]
    return make_queries(*ranks, a.text_to_image.image)


@given(
    p_values=st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=8), alpha=st.floats(0.001, 0.999)
)
def test_holm_rejects_what_its_steps_reject(p_values, alpha):
    rejected = set()
    for step, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] * (len(p_values) - step) > alpha:
            break
        rejected.add(str(i))

    adjusted = holm({str(i): p for i, p in enumerate(p_values)})

    assert {name for name, p in adjusted.items() if p <= alpha} == rejected


def test_other_queries_are_refused():
    a, b = make_queries([1, 2], [1, 2], [0, 1]), make_queries([1, 2], [1, 2], [1, 0])

    with pytest.raises(ValueError, match="text_to_image: the queries of the runs differ"):
        compare(a, b)


def test_unbounded_means_have_bootstrap_t_intervals():
    # by definition, from mean and standard error of each draw
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), generator.integers(1, 4, 30))
    values = np.exp(generator.standard_normal(len(clusters)))

    def mean_and_error(images):
        sums = np.array([values[clusters == image].sum() for image in images])
        counts = np.array([(clusters == image).sum() for image in images])
        mean = sums.sum() / counts.sum()
        return mean, math.sqrt(np.square(sums - mean * counts).sum()) / counts.sum()

    value, error = mean_and_error(range(30))
    drawn = [mean_and_error(images) for images in np.random.default_rng((0,)).integers(30, size=(200, 30))]
    t = [(mean - value) / its_error for mean, its_error in drawn]

    interval = mean_interval(values, clusters, bounds=None, draws=200)

    assert interval.value == pytest.approx(value)
    assert interval.low == pytest.approx(value - np.quantile(t, 0.975) * error)
    assert interval.high == pytest.approx(value - np.quantile(t, 0.025) * error)


@pytest.mark.parametrize("num_images", [1, 2, 50])
def test_ranks_that_are_all_the_same(num_images):
    ranks = [3] * num_images
    intervals = figure_intervals(make_queries(ranks, ranks, list(range(num_images))), draws=50)

    for figure in ("mean_rank", "median_rank"):
        assert intervals[f"text_to_image/{figure}"] == Interval(3.0, 3.0, 3.0)


def test_intervals_of_ranks_start_at_1_or_later():
    queries = make_queries([1] * 9 + [3], [1] * 9 + [30], list(range(10)))

    assert figure_intervals(queries, draws=500)["text_to_image/mean_rank"].low >= 1


def test_a_direction_may_lack_the_queries_of_many_images():
    # one image of three is a query of this direction: draws without it have none
    queries = make_queries([2] + [0] * 2, [1, 2, 3], [0, 1, 2])

    intervals = figure_intervals(queries, draws=100)

    assert intervals["image_to_text/median_rank"] == Interval(2.0, 2.0, 2.0)
    assert intervals["image_to_text/recall_at_1"].value == 0


def test_errors():
    nothing = make_queries([0], [], [])
    with pytest.raises(ValueError, match="image_to_text: there is no query"):
        figure_intervals(nothing)
    with pytest.raises(ValueError, match="no fold"):
        fold_intervals([])
    with pytest.raises(ValueError, match="no query"):
        mean_interval(np.array([]), np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"not within 0\.0 and 1\.0"):
        mean_interval(np.array([1.0, math.nan]), np.arange(2))


def test_spread_of_two_runs_by_hand():
    # of two values the standard error is half their difference, and t with one degree of freedom is tan(0.475 pi)
    figure = spread([70.0, 74.0])

    assert (figure.mean, figure.deviation) == (72, pytest.approx(math.sqrt(8)))
    assert figure.high - 72 == pytest.approx(2 * math.tan(0.475 * math.pi))
    assert figure.low == pytest.approx(144 - figure.high)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 200])
def test_spread_against_scipy(size):
    values = np.random.default_rng(size).normal(60, 3, size)
    figure = spread(values.tolist())
    expected = t.interval(0.95, size - 1, loc=values.mean(), scale=sem(values))
    assert (figure.low, figure.high) == pytest.approx(expected, rel=1e-9)


def test_runs_that_agree_have_no_spread():
    assert spread([61.5, 61.5, 61.5]).low == spread([61.5, 61.5, 61.5]).high == 61.5


def test_one_run_has_no_spread():
    with pytest.raises(ValueError, match="at least two runs"):
        spread([60.0])
