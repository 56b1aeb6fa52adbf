import numpy as np
import pytest
import torch
from tests.planted import planted_gallery

from ascl_lightning.metrics.gallery import Gallery, Items
from ascl_lightning.retrieval.pair_fit import mismatch_threshold, pair_fit


def scored_gallery(scores: np.ndarray, image_of_text: list[int]) -> Gallery:
    """Items whose pooled vectors are their own numbers, scored by a table."""

    def items(count: int) -> Items:
        numbers = torch.arange(count)
        pooled = numbers[:, None].float()
        return Items(numbers, pooled, torch.ones(count).long(), pooled, [torch.zeros(count, 1)], torch.device("cpu"))

    table = torch.from_numpy(scores).float()
    images, texts = items(scores.shape[0]), items(scores.shape[1])
    look_up = lambda i, t: table[i.pooled[:, 0].long()][:, t.pooled[:, 0].long()]  # noqa: E731
    return Gallery(images, texts, torch.tensor(image_of_text), look_up, {})


def naive_fit(scores: np.ndarray, image_of_text: list[int]) -> tuple[list[float], list[float]]:
    """Chance and fits of each text, one pair at a time, all images in one block."""
    num_images, num_texts = scores.shape
    pairs = [(i, t) for i in range(num_images) for t in range(num_texts)]
    strange = [(i, t) for i, t in pairs if image_of_text[t] != i]

    def fit(i: int, t: int) -> float:
        row = [scores[i, u] for u in range(num_texts) if image_of_text[u] != i]
        column = [scores[j, t] for j in range(num_images) if image_of_text[t] != j]
        return sum((scores[i, t] - np.mean(of)) / np.std(of) for of in (row, column)) / 2

    random = np.array([fit(*pair) for pair in strange])
    chance, fits = [], []
    for t, i in enumerate(image_of_text):
        chance.append((1 + int((random >= fit(i, t)).sum())) / (1 + len(random)))
        fits.append(np.mean([scores[j, t] >= scores[i, t] for j in range(num_images) if j != i]))
    return chance, fits


def test_equals_the_naive_loop() -> None:
    image_of_text = [0, 0, 1, 2, 2, 2, 3, 4]
    scores = np.random.default_rng(0).normal(size=(5, 8))
    found = pair_fit(scored_gallery(scores, image_of_text))
    chance, fits = naive_fit(scores, image_of_text)
    np.testing.assert_allclose(found.chance, chance, atol=1e-6)
    np.testing.assert_allclose(found.fits, fits, atol=1e-6)
    np.testing.assert_allclose(found.score, scores[image_of_text, range(8)], atol=1e-6)


def test_captions_of_other_pictures_fit_as_random_pairs_do() -> None:
    """Of 400 pairs with a signal of 4 spreads 100 have none: their chances are even, those of the others small."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(400, 400))
    scores[range(300), range(300)] += 4
    chance = pair_fit(scored_gallery(scores, list(range(400))), images_per_block=100).chance
    assert np.median(chance[:300]) < 0.01
    # the mean of 100 even draws lies within 0.1 of 1/2 but once in two thousand times
    assert chance[300:].mean() == pytest.approx(0.5, abs=0.1)
    # half of the bins are above 1/2, where about 50 pairs lie: the threshold is that of about 100 strangers
    flagged = chance > mismatch_threshold(chance)
    assert flagged[300:].mean() > 0.8
    assert flagged[:300].mean() < 0.05


def test_images_without_captions_are_not_drawn_and_one_is_too_few() -> None:
    gallery = planted_gallery(["dog", "cat", "tree"], [["dog"], [], ["tree"]])
    found = pair_fit(gallery)
    # each caption has its own picture and one other: of the two random pairs neither fits as well
    np.testing.assert_allclose(found.chance, [1 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(found.fits, [0, 0])
    with pytest.raises(ValueError, match="1 images have captions"):
        pair_fit(planted_gallery(["dog", "cat"], [["dog"], []]))


def test_the_threshold_by_hand() -> None:
    # 4,000 strangers spread evenly over 50 bins, 80 each, 120 others in the second bin and 5,880 in the first
    even = (np.arange(4000) + 0.5) / 4000
    chance = np.concatenate([even, np.full(120, 0.03), np.full(5880, 0.01)])
    # the second bin has 80 strangers of 200: less than half
    assert mismatch_threshold(chance) == pytest.approx(0.04)
    assert mismatch_threshold(np.concatenate([even, np.full(80, 0.03), np.full(5920, 0.01)])) == pytest.approx(0.02)


def test_without_strangers_nothing_is_above_the_threshold() -> None:
    assert mismatch_threshold(np.linspace(0.001, 0.5, 1000)) == 1.0
    # a single one is: hardly any others lie there
    assert mismatch_threshold(np.append(np.full(999, 0.001), 0.9)) < 0.9
