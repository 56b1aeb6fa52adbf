import numpy as np
import pytest
from tests.helpers.runs import make_queries

from ascl_lightning.metrics.intervals import Redraws, figure_intervals
from ascl_lightning.metrics.seed_draws import drawn_recalls, mean_over_seeds, seeded_difference


def test_recalls_of_the_original_images_and_of_a_draw():
    queries = make_queries(0, 6)

    drawn = drawn_recalls(queries, Redraws(60, draws=3))

    expected = figure_intervals(queries, draws=2)
    assert {name: values[0] for name, values in drawn.items()} == pytest.approx(
        {name: expected[name].value for name in drawn}
    )
    # the images of the second draw, as the generator of all draws gives them
    chosen = np.random.default_rng((0,)).integers(60, size=(3, 60))[1]
    images, texts = queries.image_to_text.rank, queries.text_to_image.rank.reshape(60, 3)
    assert drawn["image_to_text/recall_at_5"][2] == pytest.approx(100 * np.mean(images[chosen] <= 5))
    assert drawn["text_to_image/recall_at_1"][2] == pytest.approx(100 * np.mean(texts[chosen] <= 1))
    six = [100 * np.mean(ranks[chosen] <= k) for ranks in (images, texts) for k in (1, 5, 10)]
    assert drawn["rsum"][2] == pytest.approx(sum(six))


def test_one_seed_is_not_drawn():
    drawn = np.array([5.0, 4.0, 6.0, 7.0])

    assert mean_over_seeds([drawn]).tolist() == drawn.tolist()


def test_the_draws_have_the_variance_of_a_mean_over_seeds():
    # five runs whose metric does not depend on the images: their mean has the variance s^2 / 5
    values = np.array([60.0, 61.0, 63.0, 64.0, 67.0])

    mean = mean_over_seeds([np.full(200_001, value) for value in values])

    assert mean[0] == 63
    assert mean[1:].mean() == pytest.approx(63, abs=0.02)
    assert mean[1:].var() == pytest.approx(values.var(ddof=1) / 5, rel=0.01)


def test_draws_of_images_and_of_seeds_are_crossed():
    # of two runs one is drawn, and its value is the one in the same draw of the images
    first, second = np.arange(100.0), np.arange(100.0) + 1000

    mean = mean_over_seeds([first, second])

    assert mean[0] == 500
    assert set(mean[1:] % 1000) == set(first[1:])
    assert 20 < (mean[1:] >= 1000).sum() < 80


def test_two_methods_have_the_same_draws_of_seeds():
    """B is 3 above A with every seed, however much seeds differ, so the difference has no spread."""
    seeds = np.array([10.0, 40.0, 90.0])
    a, b = (mean_over_seeds([np.full(50, value + more) for value in seeds]) for more in (0, 3))

    found = seeded_difference(a, b)

    assert (found.a, found.b, found.value) == pytest.approx((140 / 3, 149 / 3, 3))
    assert (found.low, found.high) == pytest.approx((3, 3))
    assert found.p_value == pytest.approx(2 / 50)


def test_a_difference_by_hand():
    # of 99 draws 5 are not above 0, so p = 2 (1 + 5) / (1 + 99)
    drawn = np.concatenate([[2.0], np.full(4, -1.0), [0.0], np.full(94, 3.0)])

    found = seeded_difference(np.zeros(100), drawn)

    assert (found.value, found.p_value) == (2, 0.12)
    assert (found.low, found.high) == tuple(np.quantile(drawn[1:], (0.025, 0.975)))
    assert seeded_difference(drawn, np.zeros(100)).p_value == 0.12


def test_equal_runs_do_not_differ():
    drawn = np.arange(20.0)

    found = seeded_difference(drawn, drawn)

    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_draw_without_queries_is_left_out():
    found = seeded_difference(np.zeros(4), np.array([1.0, np.nan, 2.0, 2.0]))

    assert (found.low, found.high) == (2, 2)


def test_no_run_is_refused():
    with pytest.raises(ValueError, match="no run"):
        mean_over_seeds([])
