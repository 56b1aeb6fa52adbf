"""How well each caption fits its picture, beside how captions fit pictures drawn at random."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.metrics.gallery import Gallery

HIGHEST_THRESHOLD = 2.33
"""One random pair in a hundred fits better: what does is not called strange, however much better all others fit."""
_ITERATIONS = 500
_LEAST_SPREAD = 1e-3
IMAGES_PER_BLOCK = 256
"""Images that are scored against the captions of each other: more tell finer, and cost more."""


@dataclass(frozen=True, eq=False)
class PairFit:
    """Of each of M captions with its picture.

    Args:
        score: The score that the model ranks by, (M,).
        fit: How much better it fits than random pairs of a picture and a caption, in spreads of their fits, (M,).
        chance: Share of random pairs of the block that fit at least as well, in (0, 1], (M,). Of pairs that do not
            belong together it is spread evenly over (0, 1]; of those that do, most are near 0.
        fits: Share of the block's other pictures that score at least as high with the caption, (M,).
    """

    score: Float[np.ndarray, " M"]
    fit: Float[np.ndarray, " M"]
    chance: Float[np.ndarray, " M"]
    fits: Float[np.ndarray, " M"]


@torch.no_grad()
def pair_fit(gallery: Gallery, seed: int = 0, images_per_block: int = IMAGES_PER_BLOCK) -> PairFit:
    """Scores every caption with the pictures of a block, drawn at random, of which one is its own.

    A score is standardised twice, among the block's captions of other pictures with the same picture and among its
    other pictures with the same caption, and the two are averaged: so that neither a picture nor a caption that scores
    high with everything fits well. `fit` and `chance` compare that of a pair with those of the block's other pairs.

    Args:
        gallery: The encoded images and texts.
        seed: Of the blocks.
        images_per_block: Most images of a block.

    Raises:
        UserError: If fewer than 2 images have captions.
    """
    texts_of = torch.argsort(gallery.image_of_text, stable=True).cpu()
    counts = torch.bincount(gallery.image_of_text, minlength=len(gallery.images.ids)).cpu()
    starts = counts.cumsum(0) - counts
    visited = np.random.default_rng(seed).permutation(torch.nonzero(counts)[:, 0].numpy())
    if len(visited) < 2:
        raise UserError(
            f"{len(visited)} images have captions; give a split of 2 or more, to compare them with each other"
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
    """Score, fit, chance and fits of each of m texts."""
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
    """Deviations of a row or column from the mean of its pairs that do not belong together, in their spread."""
    count = (~own).sum(dim, keepdim=True).clamp_min(1)
    mean = scores.masked_fill(own, 0).sum(dim, keepdim=True) / count
    squares = ((scores - mean) ** 2).masked_fill(own, 0).sum(dim, keepdim=True) / count
    return (scores - mean) / squares.sqrt().clamp_min(1e-6)


def fit_threshold(fit: Float[np.ndarray, " M"]) -> float:
    """The `PairFit.fit` below which a pair more likely than not does not belong together; -inf if none does.

    Fits are taken for a mixture of two normals, fitted by expectation and maximisation: pairs that do not belong
    together, which fit as random pairs do, with mean 0 and spread 1; and those that do. The threshold is where one is
    as likely as the other, below the mean of those that do, and no higher than `HIGHEST_THRESHOLD`. (A free mean of the
    former would let them take over the worse half of the latter: measured with 40% of strangers and a weak model.)

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
    """Probability of the standard normal, which has this share of all, and not of one with this mean and spread."""
    first = share * np.exp(-(fit**2) / 2)
    second = (1 - share) / spread * np.exp(-(((fit - mean) / spread) ** 2) / 2)
    return first / np.maximum(first + second, 1e-300)
