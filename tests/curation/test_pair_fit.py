from statistics import NormalDist

import numpy as np
import pytest
import torch
from tests.helpers.planted import planted_gallery

from ascl_lightning.curation.pair_fit import fit_threshold, pair_fit
from ascl_lightning.errors import UserError
from ascl_lightning.metrics.gallery import Gallery, Items


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


def naive_fit(scores: np.ndarray, image_of_text: list[int]) -> tuple[list[float], list[float], list[float]]:
    """Fit, chance and fits of each text, one pair at a time, all images in one block."""
    num_images, num_texts = scores.shape
    pairs = [(i, t) for i in range(num_images) for t in range(num_texts)]
    strange = [(i, t) for i, t in pairs if image_of_text[t] != i]

    def fit(i: int, t: int) -> float:
        row = [scores[i, u] for u in range(num_texts) if image_of_text[u] != i]
        column = [scores[j, t] for j in range(num_images) if image_of_text[t] != j]
        return sum((scores[i, t] - np.mean(of)) / np.std(of) for of in (row, column)) / 2

    random = np.array([fit(*pair) for pair in strange])
    better, chance, fits = [], [], []
    for t, i in enumerate(image_of_text):
        better.append((fit(i, t) - random.mean()) / random.std(ddof=1))
        chance.append((1 + int((random >= fit(i, t)).sum())) / (1 + len(random)))
        fits.append(np.mean([scores[j, t] >= scores[i, t] for j in range(num_images) if j != i]))
    return better, chance, fits


def test_equals_the_naive_loop() -> None:
    image_of_text = [0, 0, 1, 2, 2, 2, 3, 4]
    scores = np.random.default_rng(0).normal(size=(5, 8))
    found = pair_fit(scored_gallery(scores, image_of_text))
    better, chance, fits = naive_fit(scores, image_of_text)
    np.testing.assert_allclose(found.fit, better, atol=1e-5)
    np.testing.assert_allclose(found.chance, chance, atol=1e-6)
    np.testing.assert_allclose(found.fits, fits, atol=1e-6)
    np.testing.assert_allclose(found.score, scores[image_of_text, range(8)], atol=1e-6)


def test_captions_of_other_pictures_fit_as_random_pairs_do() -> None:
    """Of 400 pairs with a signal of 4 spreads 100 have none: their chances are even, those of the others small."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(400, 400))
    scores[range(300), range(300)] += 4
    found = pair_fit(scored_gallery(scores, list(range(400))), images_per_block=100)
    chance = found.chance
    assert np.median(chance[:300]) < 0.01
    # the mean of 100 even draws lies within 0.1 of 1/2 but once in two thousand times
    assert chance[300:].mean() == pytest.approx(0.5, abs=0.1)
    assert found.fit[300:].mean() == pytest.approx(0.0, abs=0.4)
    assert found.fit[300:].std() == pytest.approx(1.0, abs=0.3)
    flagged = found.fit < fit_threshold(found.fit)
    assert flagged[300:].mean() > 0.8
    assert flagged[:300].mean() < 0.05


def test_images_without_captions_are_not_drawn_and_one_is_too_few() -> None:
    gallery = planted_gallery(["dog", "cat", "tree"], [["dog"], [], ["tree"]])
    found = pair_fit(gallery)
    # each caption has its own picture and one other: of the two random pairs neither fits as well
    np.testing.assert_allclose(found.chance, [1 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(found.fits, [0, 0])
    with pytest.raises(UserError, match="1 images have captions"):
        pair_fit(planted_gallery(["dog", "cat"], [["dog"], []]))


@pytest.mark.parametrize(("share", "mean"), [(0.2, 3.0), (0.4, 2.5), (0.05, 4.0)])
def test_the_threshold_is_where_both_kinds_are_as_likely(share: float, mean: float) -> None:
    """Quantiles of two normals, of spreads 1 and 1/2, mixed in shares that nobody tells."""

    def quantiles(count: int, mean: float, spread: float) -> list[float]:
        return [NormalDist(mean, spread).inv_cdf((i + 0.5) / count) for i in range(count)]

    num_strange = int(4000 * share)
    fits = [*quantiles(num_strange, 0.0, 1.0), *quantiles(4000 - num_strange, mean, 0.5)]
    found = fit_threshold(np.array(fits))
    first, second = NormalDist(), NormalDist(mean, 0.5)
    # the difference falls between the means: halve until it is 0
    low, high = 0.0, mean
    while high - low > 1e-9:
        middle = (low + high) / 2
        is_strange = share * first.pdf(middle) > (1 - share) * second.pdf(middle)
        low, high = (middle, high) if is_strange else (low, middle)
    assert found == pytest.approx(low, abs=0.03)


def test_no_pair_is_below_the_threshold_if_all_fit() -> None:
    fits = np.array([NormalDist(3.0, 0.5).inv_cdf((i + 0.5) / 1000) for i in range(1000)])
    assert not (fits < fit_threshold(fits)).any()
    # a single one that does not is found
    fits = np.append(fits, 0.0)
    assert (fits < fit_threshold(fits)).sum() == 1
