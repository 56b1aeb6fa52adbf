"""How well each caption fits its picture, beside how captions fit pictures drawn at random."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ascl_lightning.metrics.gallery import Gallery

IMAGES_PER_BLOCK = 256
"""Images that are scored against the captions of each other: more tell finer, and cost more."""


@dataclass(frozen=True, eq=False)
class PairFit:
    """Of each of M captions with its picture.

    Args:
        score: The score that the model ranks by, (M,).
        chance: Share of random pairs of the block that fit at least as well, in (0, 1], (M,). Of pairs that do not
            belong together it is spread evenly over (0, 1]; of those that do, most are near 0.
        fits: Share of the block's other pictures that score at least as high with the caption, (M,).
    """

    score: Float[np.ndarray, " M"]
    chance: Float[np.ndarray, " M"]
    fits: Float[np.ndarray, " M"]


@torch.no_grad()
def pair_fit(gallery: Gallery, seed: int = 0, images_per_block: int = IMAGES_PER_BLOCK) -> PairFit:
    """Scores every caption with the pictures of a block, drawn at random, of which one is its own.

    A score is standardised twice, among the block's captions of other pictures with the same picture and among its
    other pictures with the same caption, and the two are averaged: so that neither a picture nor a caption that scores
    high with everything fits well. `chance` compares that of a pair with that of all other pairs of the block.

    Args:
        gallery: The encoded images and texts.
        seed: Of the blocks.
        images_per_block: Most images of a block.

    Raises:
        ValueError: If fewer than 2 images have captions.
    """
    texts_of = torch.argsort(gallery.image_of_text, stable=True).cpu()
    counts = torch.bincount(gallery.image_of_text, minlength=len(gallery.images.ids)).cpu()
    starts = counts.cumsum(0) - counts
    visited = np.random.default_rng(seed).permutation(torch.nonzero(counts)[:, 0].numpy())
    if len(visited) < 2:
        raise ValueError(f"{len(visited)} images have captions: there is nothing to compare them with")
    found = np.empty((3, len(texts_of)), np.float32)
    for images in np.array_split(visited, -(-len(visited) // images_per_block)):
        texts = torch.cat([texts_of[starts[image] : starts[image] + counts[image]] for image in images])
        of_image = torch.arange(len(images)).repeat_interleave(counts[images])
        device = gallery.image_of_text.device
        scores = gallery.score(torch.from_numpy(images).to(device), texts.to(device)).float().cpu()
        found[:, texts.numpy()] = np.stack(_of_block(scores, of_image))
    return PairFit(*found)


def _of_block(scores: Float[Tensor, "n m"], of_image: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, chance and fits of each of m texts."""
    own = torch.zeros_like(scores, dtype=torch.bool)
    places = torch.arange(len(of_image))
    own[of_image, places] = True
    fit = (_standardised(scores, own, 1) + _standardised(scores, own, 0)) / 2
    true = scores[of_image, places]
    random = fit[~own].sort().values
    as_good = len(random) - torch.searchsorted(random, fit[of_image, places])
    chance = (as_good + 1) / (len(random) + 1)
    fits = ((scores >= true) & ~own).sum(0) / (len(scores) - 1)
    return true.numpy(), chance.numpy(), fits.numpy()


def _standardised(scores: Float[Tensor, "n m"], own: Bool[Tensor, "n m"], dim: int) -> Float[Tensor, "n m"]:
    """Deviations of a row or column from the mean of its pairs that do not belong together, in their spread."""
    count = (~own).sum(dim, keepdim=True).clamp_min(1)
    mean = scores.masked_fill(own, 0).sum(dim, keepdim=True) / count
    squares = ((scores - mean) ** 2).masked_fill(own, 0).sum(dim, keepdim=True) / count
    return (scores - mean) / squares.sqrt().clamp_min(1e-6)


def mismatch_threshold(chance: Float[np.ndarray, " M"]) -> float:
    """The `chance` above which at least half of the pairs are expected not to belong together; 1 if there are none.

    Of pairs that do not belong together as many lie above 1/2 as below, and hardly any others lie there: twice what
    lies there estimates their number (Storey 2002, at lambda 1/2). They are spread evenly over (0, 1], which is cut
    into bins; the threshold is the lower edge of the lowest bin from which on, in every bin up to 1/2, they are half or
    more (Efron's local false discovery rate, the other way round).

    Examples:
        >>> mismatch_threshold(np.array([0.01] * 900 + [0.005 + i / 100 for i in range(100)]))
        0.02
    """
    num_bins = 2 * max(1, min(25, len(chance) // 40))
    counts = np.histogram(chance, num_bins, (0.0, 1.0))[0][: num_bins // 2]
    num_mismatched = min(1.0, 2 * float((chance > 0.5).mean())) * len(chance)
    if not num_mismatched:
        return 1.0
    is_half = num_mismatched / num_bins >= counts / 2
    return float(np.flatnonzero(~is_half).max(initial=-1) + 1) / num_bins
