"""How well each caption fits its image, compared with random pairs of images and captions."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.metrics.gallery import Gallery

HIGHEST_THRESHOLD = 2.33
"""Upper limit of `fit_threshold`: 1% of random pairs fit better than this, so such a pair is not flagged."""
_ITERATIONS = 500
_LEAST_SPREAD = 1e-3
IMAGES_PER_BLOCK = 256
"""Images whose pairs are scored against each other; larger blocks are more precise and cost more."""


@dataclass(frozen=True, eq=False)
class PairFit:
    """Fit of M captions with their images.

    Args:
        score: The score that the model ranks by, (M,).
        fit: Distance from the mean fit of random pairs, in their standard deviations, (M,).
        chance: Fraction of the block's random pairs that fit at least as well, in (0, 1], (M,). It is uniform for
            mismatched pairs, and mostly near 0 for matching pairs.
        fits: Fraction of the block's other images that score at least as high with the caption, (M,).
    """

    score: Float[np.ndarray, " M"]
    fit: Float[np.ndarray, " M"]
    chance: Float[np.ndarray, " M"]
    fits: Float[np.ndarray, " M"]


@torch.no_grad()
def pair_fit(gallery: Gallery, seed: int = 0, images_per_block: int = IMAGES_PER_BLOCK) -> PairFit:
    """Scores each caption with the images of a random block that contains its own image.

    The score is standardised twice, over the mismatched captions of the same image and over the other images with the
    same caption, and the two are averaged. An image or caption that scores high with everything thus does not fit well.
    `fit` and `chance` compare the result with that of the block's mismatched pairs.

    Args:
        gallery: The encoded images and texts.
        seed: Seed of the division into blocks.
        images_per_block: Maximum number of images of a block.

    Raises:
        UserError: If fewer than 2 images have captions.
    """
    texts_of = torch.argsort(gallery.image_of_text, stable=True).cpu()
    counts = torch.bincount(gallery.image_of_text, minlength=len(gallery.images.ids)).cpu()
    starts = counts.cumsum(0) - counts
    visited = np.random.default_rng(seed).permutation(torch.nonzero(counts)[:, 0].numpy())
    if len(visited) < 2:
        raise UserError(
            f"{len(visited)} images have captions, but at least 2 are needed for comparison; give a larger split"
        )
    found = np.empty((4, len(texts_of)), np.float32)
    for images in np.array_split(visited, -(-len(visited) // images_per_block)):
        texts = torch.cat([texts_of[starts[image] : starts[image] + counts[image]] for image in images])
        of_image = torch.arange(len(images)).repeat_interleave(counts[images])
        device = gallery.image_of_text.device
        scores = gallery.score(torch.from_numpy(images).to(device), texts.to(device)).float().cpu()
        found[:, texts.numpy()] = np.stack(_of_block(scores, of_image))
    return PairFit(*found)


def _of_block(scores: Float[Tensor, "n m"], of_image: Tensor) -> tuple[np.ndarray, ...]:
    """`score`, `fit`, `chance` and `fits` of m texts."""
    own = torch.zeros_like(scores, dtype=torch.bool)
    places = torch.arange(len(of_image))
    own[of_image, places] = True
    fit = (_standardised(scores, own, 1) + _standardised(scores, own, 0)) / 2
    true = scores[of_image, places]
    random = fit[~own].sort().values
    better = (fit[of_image, places] - random.mean()) / random.std().clamp_min(1e-6)
    as_good = len(random) - torch.searchsorted(random, fit[of_image, places])
    chance = (as_good + 1) / (len(random) + 1)
    fits = ((scores >= true) & ~own).sum(0) / (len(scores) - 1)
    return true.numpy(), better.numpy(), chance.numpy(), fits.numpy()


def _standardised(scores: Float[Tensor, "n m"], own: Bool[Tensor, "n m"], dim: int) -> Float[Tensor, "n m"]:
    """Scores standardised by the mismatched pairs of each row (`dim` 1) or column (`dim` 0)."""
    count = (~own).sum(dim, keepdim=True).clamp_min(1)
    mean = scores.masked_fill(own, 0).sum(dim, keepdim=True) / count
    squares = ((scores - mean) ** 2).masked_fill(own, 0).sum(dim, keepdim=True) / count
    return (scores - mean) / squares.sqrt().clamp_min(1e-6)


def fit_threshold(fit: Float[np.ndarray, " M"]) -> float:
    """The `PairFit.fit` below which a pair is more likely mismatched than not; -inf if there is no such value.

    Fits are modelled as a mixture of two normals, estimated by expectation-maximisation: mismatched pairs with mean 0
    and standard deviation 1, like random pairs, and matching pairs. The threshold is where both are equally likely,
    below the mean of the matching pairs and at most `HIGHEST_THRESHOLD`. (With a free mean, the mismatched component
    took over the worse half of the matching pairs, in a measurement with 40% mismatched pairs and a weak model.)

    Examples:
        >>> 1.7 < fit_threshold(np.concatenate([np.linspace(-1.7, 1.7, 100), np.linspace(4.0, 6.0, 900)])) < 4.0
        True
    """
    fit = fit.astype(np.float64)
    share, mean, spread = 0.5, float(fit.mean()), float(fit.std()) + _LEAST_SPREAD
    for _ in range(_ITERATIONS):
        is_strange = _is_strange(fit, share, mean, spread)
        others = max((1 - is_strange).sum(), 1e-9)
        share = is_strange.mean()
        mean = ((1 - is_strange) * fit).sum() / others
        spread = math.sqrt(((1 - is_strange) * (fit - mean) ** 2).sum() / others) + _LEAST_SPREAD
    highest = min(mean, HIGHEST_THRESHOLD)
    places = np.linspace(highest - 10 * (1 + spread), highest, 10_001)
    strange_places = np.flatnonzero(_is_strange(places, share, mean, spread) >= 0.5)
    return float(places[strange_places[-1]]) if len(strange_places) else -math.inf


def _is_strange(fit: Float[np.ndarray, " n"], share: float, mean: float, spread: float) -> Float[np.ndarray, " n"]:
    """Posterior of the standard normal with weight `share` against a normal with `mean` and `spread`."""
    first = share * np.exp(-(fit**2) / 2)
    second = (1 - share) / spread * np.exp(-(((fit - mean) / spread) ** 2) / 2)
    return first / np.maximum(first + second, 1e-300)
