"""Planted scorers: what they find follows from how they were made, so every figure can be worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ascl_lightning.data.variants.ladder import Ladder
from ascl_lightning.evaluation.report_card.curves import CardFigures, Curve, Outcome, Step
from ascl_lightning.metrics.intervals import Redraws, mean_interval

DRAWS = 200


def scores_with_ranks(ranks: Tensor) -> Tensor:
    """Scores of as many images as texts, text i of image i, in which text i has this rank among the texts' images.

    Competitors score 1, those that do not compete 0, and the text's own image 0.5.
    """
    size = len(ranks)
    scores = torch.zeros(size, size)
    for text, rank in enumerate(ranks.tolist()):
        others = [image for image in range(size) if image != text]
        scores[others[: rank - 1], text] = 1.0
        scores[text, text] = 0.5
    return scores


def outcome(ranks: list[int], own: list[float] | None = None, blind: list[float] | None = None) -> Outcome:
    """Of as many images as texts, with the same ranks in both directions."""
    scores = [0.5] * len(ranks) if own is None else own
    return Outcome(np.array(ranks), np.array(ranks), np.array(scores), None if blind is None else np.array(blind))


def ladder(type_: str, steps: list[Step], unchanged: float = 0.0, operation: str = "planted") -> Ladder:
    return Ladder(type_, operation, "units", unchanged, tuple(steps))


def step(level: float, ranks: list[int], changed: list[bool] | None = None, own: list[float] | None = None) -> Step:
    flags = np.ones(len(ranks), bool) if changed is None else np.array(changed)
    return Step(level, flags, {"planted": outcome(ranks, own)})


def figures(
    ranks: list[int], ladders: list[Ladder], words: list[int] | None = None, own: list[float] | None = None
) -> CardFigures:
    size = len(ranks)
    num_words = np.array(words if words is not None else [5] * size)
    return CardFigures({"planted": outcome(ranks, own)}, ladders, np.arange(size), num_words, draws=DRAWS)


def find(curves: list[Curve], name: str, direction: str = "text_to_image", metric: str = "recall_at_1") -> Curve:
    (found,) = [of for of in curves if (of.name, of.direction, of.metric) == (name, direction, metric)]
    return found


def test_outcomes_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.7, 0.3]])
    found = Outcome.of(scores, torch.tensor([0, 1, 1]))
    assert found.image_ranks.tolist() == [1, 1]
    assert found.text_ranks.tolist() == [1, 2, 1]
    assert found.own_scores.tolist() == pytest.approx([0.9, 0.7, 0.3])


def test_scores_with_ranks_have_these_ranks():
    ranks = torch.tensor([1, 3, 2, 4])
    assert Outcome.of(scores_with_ranks(ranks), torch.arange(4)).text_ranks.tolist() == ranks.tolist()


def test_curve_and_slope_of_a_length_sensitive_scorer():
    """It finds all captions of 2 words, half of those of 6 and none of those of 10."""
    words = [2] * 4 + [6] * 4 + [10] * 4
    ranks = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    curve = find(figures(ranks, [], words).curves(), "caption_length")
    assert (curve.type, curve.x_label) == ("length", "words of the caption")
    assert (curve.x, curve.n) == ([2, 6, 10], [4, 4, 4])
    assert curve.y == pytest.approx([100, 50, 0])
    # 50 points lost over 4 words; trapezoids of 75 and 25 over 4 words each
    assert curve.slope == pytest.approx(-12.5)
    assert curve.area == pytest.approx(50)
    assert find(figures(ranks, [], words).curves(), "caption_length", metric="recall_at_5").y == [100, 100, 100]


def test_the_slope_weighs_lengths_by_their_captions():
    # least squares by numpy on every single caption
    words, ranks = [2] * 1 + [6] * 5 + [30] * 2, [1, 1, 1, 1, 2, 2, 2, 1]
    curve = find(figures(ranks, [], words).curves(), "caption_length")
    assert curve.x == [2, 6, 30]
    assert curve.y == pytest.approx([100, 60, 50])
    assert curve.slope == pytest.approx(np.polyfit(words, [100.0 * (rank == 1) for rank in ranks], 1)[0])


def test_lengths_fall_into_bins_of_four_words_and_one_of_the_rest():
    words = [1, 4, 5, 8, 9, 24, 25, 300]
    curve = find(figures([1] * 8, [], words).curves(), "caption_length")
    assert curve.x == [2.5, 6.5, 9, 24, 162.5]
    assert curve.n == [2, 2, 1, 1, 2]


def test_images_have_the_mean_length_of_their_captions():
    """Two captions of 2 and 12 words make an image of 7 words; an image without captions is no query."""
    both = Outcome(np.array([1, 2, 0]), np.array([1, 1, 2]), np.zeros(3))
    card = CardFigures({"planted": both}, [], np.array([0, 0, 1]), np.array([2, 12, 2]), draws=DRAWS)
    of_images = find(card.curves(), "caption_length", "image_to_text")
    assert (of_images.x, of_images.y, of_images.n) == ([2, 7], [0, 100], [1, 1])
    of_texts = find(card.curves(), "caption_length")
    assert (of_texts.x, of_texts.n) == ([2, 12], [2, 1])
    assert of_texts.y == pytest.approx([50, 100])


def test_curves_over_levels_and_their_areas_by_hand():
    """Of four captions 4, 3, 2 and 0 are found as 100, 75, 50 and 25% of the words are kept."""
    steps = [step(75.0, [1, 1, 1, 2]), step(50.0, [1, 1, 2, 2]), step(25.0, [2, 2, 2, 2])]
    card = figures([1, 1, 1, 1], [ladder("III", steps, unchanged=100.0)])
    curve = find(card.curves(), "planted")
    assert (curve.x, curve.y, curve.n) == ([100, 75, 50, 25], [100, 75, 50, 0], [4] * 4)
    # trapezoids of 87.5, 62.5 and 25 over 25 each, divided by 75
    assert curve.area == pytest.approx((87.5 + 62.5 + 25) / 3)
    assert curve.slope == pytest.approx(np.polyfit([100, 75, 50, 25], [100, 75, 50, 0], 1)[0])
    # R@5 and R@10 stay at 100 in both directions; the recalls as they are sum up to 600
    expected = 100 * (2 * (87.5 + 62.5 + 25) / 3 + 4 * 100) / 600
    assert card.figures()["III"]["planted"].value == pytest.approx(expected)


def test_only_captions_that_can_be_changed_are_queries():
    """The fourth caption has no number to swap; that it is not found counts for nothing."""
    card = figures([1, 1, 1, 9], [ladder("I", [step(1.0, [1, 9, 9, 9], changed=[True, True, True, False])])])
    for direction in ("text_to_image", "image_to_text"):
        curve = find(card.curves(), "planted", direction)
        assert (curve.x, curve.n) == ([0, 1], [3, 3])
        assert curve.y == pytest.approx([100, 100 / 3])


def test_the_identity_changes_nothing():
    ranks = [1, 2, 6, 11]
    card = figures(ranks, [ladder("II", [step(1.0, ranks), step(2.0, ranks)])])
    for direction in ("text_to_image", "image_to_text"):
        for metric, recall in (("recall_at_1", 25), ("recall_at_5", 50), ("recall_at_10", 75)):
            curve = find(card.curves(), "planted", direction, metric)
            assert curve.y == [recall] * 3
            assert (curve.area, curve.slope) == (pytest.approx(recall), 0)
            assert (len(set(curve.low)), len(set(curve.high))) == (1, 1)
    figure = card.figures()["II"]["planted"]
    assert (figure.value, figure.low, figure.high) == pytest.approx((100, 100, 100))


def test_ties_count_against_and_so_does_rounding():
    """T beats T- by 0.1, by nothing, by rounding, not at all; the fifth cannot be changed."""
    own = [0.5, 0.5, 0.5, 0.5, 0.5]
    wrong = [0.4, 0.5, 0.5 - 1e-7, 0.6, 0.1]
    planted = ladder("I", [step(1.0, [1] * 5, [True] * 4 + [False], wrong)])
    (found,) = figures([1] * 5, [planted], own=own).discrimination()
    assert (found.operation, found.score, found.n, found.value) == ("planted", "planted", 4, 25)
    assert found.low < 25 < found.high


def test_operations_weigh_the_same_however_many_captions_they_change():
    often = ladder("I", [step(1.0, [1] * 4, own=[0.0] * 4)], operation="often")
    seldom = ladder("I", [step(1.0, [1] * 4, [True, False, False, False], [1.0] * 4)], operation="seldom")
    card = figures([1] * 4, [often, seldom])
    assert [(found.operation, found.value) for found in card.discrimination()] == [("often", 100), ("seldom", 0)]
    assert card.figures()["I"]["planted"].value == 50


def test_unseen_operations_and_the_text_only_control_by_hand():
    """Three operations, each on all four captions, whose scores are 0.5 with and without the picture."""
    made = {
        # the image prefers 4, 3 and 1 captions, the control 2, 1 and 4
        "trained": ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 1.0]),
        "unseen": ([0.0, 0.0, 0.0, 0.5], [0.0, 1.0, 1.0, 1.0]),
        "other": ([0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]),
    }
    ladders = [
        ladder("I", [Step(1.0, np.ones(4, bool), {"planted": outcome([1] * 4, own, blind)})], operation=name)
        for name, (own, blind) in made.items()
    ]
    plain = {"planted": outcome([1] * 4, blind=[0.5] * 4)}
    card = CardFigures(plain, ladders, np.arange(4), np.full(4, 5), trained_on=["trained"], draws=DRAWS)
    assert [(row.operation, row.trained_on, row.value, row.control.value) for row in card.discrimination()] == [
        ("trained", True, 100, 50),
        ("unseen", False, 75, 25),
        ("other", False, 25, 100),
    ]
    assert card.figures()["I"]["planted"].value == pytest.approx(200 / 3)
    assert card.control().value == pytest.approx(175 / 3)
    unseen = card.unseen()
    assert (unseen.operations, unseen.value["planted"].value, unseen.control.value) == (["unseen", "other"], 50, 62.5)
    # by the function for one mean, over each image's share of the two operations
    expected = mean_interval(np.array([100.0, 50, 50, 0]), np.arange(4), bounds=(0.0, 100.0), draws=DRAWS)
    found = unseen.value["planted"]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_without_unseen_operations_or_other_images_there_is_no_such_figure():
    planted = ladder("I", [step(1.0, [1, 1])])
    card = CardFigures({"planted": outcome([1, 1])}, [planted], np.arange(2), np.full(2, 5), trained_on=["planted"])
    assert card.unseen() is None
    assert card.control() is None
    assert [row.control for row in card.discrimination()] == [None]
    without = figures([1, 1], [])
    assert (without.unseen(), without.control()) == (None, None)


def test_without_recall_the_summary_is_0():
    ranks = [99] * 3
    assert figures(ranks, [ladder("III", [step(1.0, ranks)])]).figures()["III"]["planted"].value == 0


def test_types_without_operations_have_no_figure():
    assert figures([1, 1], []).figures() == {}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40))
def test_a_mean_has_the_bootstrap_interval(rows):
    """By the function for one mean, where every image has a query."""
    images = np.array([image for image, _ in rows] + list(range(10)))
    values = np.array([100.0 * hit for _, hit in rows] + [0.0, 100.0] * 5)
    redraws = Redraws(10, draws=DRAWS)
    found = redraws.interval(redraws.means(values[:, None], images)[:, 0])
    expected = mean_interval(values, images, bounds=(0.0, 100.0), draws=DRAWS)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
