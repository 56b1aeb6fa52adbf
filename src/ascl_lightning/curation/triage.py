"""Flags training pairs with captions that are mismatched, duplicated, over-long or under-specified.

Each pair has four numbers and is flagged for those above a threshold:

- `mismatched`: minus the fit of `pair_fit`, so negative for good pairs. Threshold: the value above which a pair is more
  likely mismatched than not (`fit_threshold`).
- `duplicate`: occurrences of this image with this caption so far. Threshold: 1.
- `over_long`: the sum of the positive doubts of its words (`UsualSupport.doubt`), that is of words without support in
  an image that otherwise fits.
- `under_specified`: the fraction of other images that fit the caption at least as well as its own.

The last two are only flagged for pairs that are not mismatched. Their thresholds are outer fences (Tukey 1977): the
upper quartile plus three interquartile ranges, but at least `LEAST`. The usual support of words is estimated on pairs
that are not mismatched.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ascl_lightning.curation.pair_fit import fit_threshold, pair_fit
from ascl_lightning.data.text import Tokenizer
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.search.word_support import UNSUPPORTED, PairSupport, UsualSupport, pair_support

KINDS = ("mismatched", "duplicate", "over_long", "under_specified")
LEAST = {"over_long": UNSUPPORTED, "under_specified": 0.01}
"""Minimum thresholds of the kinds that are only flagged for pairs that are not mismatched."""


@dataclass(frozen=True, eq=False)
class Triage:
    """Results of a triage of M pairs, in the order of the gallery's texts.

    Args:
        captions: The cleaned captions.
        score: The score that the model ranks by.
        chance: Fraction of random pairs that fit at least as well.
        numbers: The numbers of all pairs, by kind.
        thresholds: The thresholds above which pairs are flagged, by kind; inf if none is flagged.
        flags: Whether each pair is flagged, by kind.
        words: Words of each caption that the model read.
        support: Support of each word in the image.
        unsupported: Words of each caption with a doubt above `UNSUPPORTED`.
        coverage: Mean support of the image's regions by the words.
    """

    captions: Sequence[str]
    score: Float[np.ndarray, " M"]
    chance: Float[np.ndarray, " M"]
    numbers: dict[str, Float[np.ndarray, " M"]]
    thresholds: dict[str, float]
    flags: dict[str, Bool[np.ndarray, " M"]]
    words: list[np.ndarray]
    support: list[np.ndarray]
    unsupported: list[np.ndarray]
    coverage: Float[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.captions)

    def flags_of(self, row: int) -> list[str]:
        """Kinds that a pair is flagged for, in the order of `KINDS`."""
        return [kind for kind in KINDS if kind in self.flags and self.flags[kind][row]]

    def reason(self, row: int) -> str:
        """Why a pair is flagged; "" if it is not."""
        return "; ".join(_REASONS[kind](self, row) for kind in self.flags_of(row))

    @property
    def flagged(self) -> Bool[np.ndarray, " M"]:
        """Whether each pair has any flag."""
        return np.any(list(self.flags.values()), axis=0) if self.flags else np.zeros(len(self), np.bool_)


def triage(
    similarity: FusedSimilarity,
    tokenizer: Tokenizer,
    gallery: Gallery,
    captions: Sequence[str],
    kinds: Collection[str] = KINDS,
    seed: int = 0,
) -> Triage:
    """Triages all pairs of a split.

    Args:
        similarity: Similarity of the model that encoded the gallery.
        tokenizer: Tokenizer of the same model.
        gallery: The encoded split.
        captions: The cleaned captions, in the order of the gallery's texts.
        kinds: Kinds to flag; the numbers of all kinds are computed.
        seed: Seed of the random pairs.

    Raises:
        UserError: If fewer than 2 images have captions.
    """
    fit, texts = pair_fit(gallery, seed), torch.arange(len(captions), device=gallery.image_of_text.device)
    own = pair_support(similarity, tokenizer, gallery, captions, gallery.image_of_text, texts)
    strangers = _other_images(gallery, seed)
    other = pair_support(similarity, tokenizer, gallery, captions, strangers, texts)
    thresholds = {"mismatched": -fit_threshold(fit.fit), "duplicate": 1.0}
    belongs = -fit.fit <= thresholds["mismatched"]
    # if no pair fits, use all
    counted = belongs[own.pairs]
    if not counted.any():
        counted[:] = True
    usual = UsualSupport.of(own.words[counted], own.support[counted], other.support[counted])
    doubts = _by_pair(usual.doubt(own.words, own.support), own)
    words = _by_pair(own.words, own)
    numbers = {
        "mismatched": -fit.fit,
        "duplicate": occurrences(gallery, captions),
        "over_long": np.array([np.maximum(doubt, 0).sum() for doubt in doubts]),
        "under_specified": fit.fits,
    }
    thresholds |= {kind: max(LEAST[kind], outer_fence(numbers[kind][belongs])) for kind in LEAST}
    above = {kind: numbers[kind] > thresholds[kind] for kind in KINDS}
    above |= {kind: above[kind] & belongs for kind in LEAST}
    return Triage(
        captions=captions,
        score=fit.score,
        chance=fit.chance,
        numbers=numbers,
        thresholds=thresholds,
        flags={kind: above[kind] for kind in KINDS if kind in kinds},
        words=words,
        support=_by_pair(own.support, own),
        unsupported=[of[doubt > UNSUPPORTED] for of, doubt in zip(words, doubts, strict=True)],
        coverage=own.coverage,
    )


def outer_fence(values: Float[np.ndarray, " n"]) -> float:
    """The upper quartile plus three interquartile ranges (Tukey 1977).

    Examples:
        >>> outer_fence(np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
        9.0
    """
    lower, upper = np.quantile(values, [0.25, 0.75]) if len(values) else (0.0, np.inf)
    return float(upper + 3 * (upper - lower))


def occurrences(gallery: Gallery, captions: Sequence[str]) -> Int[np.ndarray, " M"]:
    """Occurrences of each pair so far: 2 for the first repetition.

    Images are equal if their embeddings agree to three decimals; ids are not compared.
    """
    looks = (gallery.images.embeds.float().cpu().numpy() * 1000).round().astype(np.int16)
    pictures = [look.tobytes() for look in looks]
    seen: Counter[tuple[bytes, str]] = Counter()
    found = []
    for image, caption in zip(gallery.image_of_text.tolist(), captions, strict=True):
        seen[pictures[image], caption] += 1
        found.append(seen[pictures[image], caption])
    return np.array(found)


def _other_images(gallery: Gallery, seed: int) -> Int[Tensor, " M"]:
    """For each text a random image other than its own."""
    num_images, own = len(gallery.images.ids), gallery.image_of_text
    steps = np.random.default_rng(seed).integers(1, num_images, len(own))
    return (own + torch.from_numpy(steps).to(own.device)) % num_images


def _by_pair(values: np.ndarray, of: PairSupport) -> list[np.ndarray]:
    return np.split(values, np.searchsorted(of.pairs, np.arange(1, len(of.coverage))))


_REASONS: dict[str, Callable[[Triage, int], str]] = {
    "mismatched": lambda t, row: (
        f"{100 * t.chance[row]:.1f}% of random pairs fit as well: {-t.numbers['mismatched'][row]:.1f} standard "
        f"deviations above their mean (threshold {-t.thresholds['mismatched']:.1f})"
    ),
    "duplicate": lambda t, row: f"occurrence {t.numbers['duplicate'][row]} of this image with this caption",
    "over_long": lambda t, row: (
        f"the image does not support '{' '.join(t.unsupported[row])}': doubt {t.numbers['over_long'][row]:.1f} "
        f"(threshold {t.thresholds['over_long']:.1f})"
    ),
    "under_specified": lambda t, row: (
        f"the caption fits {100 * t.numbers['under_specified'][row]:.1f}% of other images as well (threshold "
        f"{100 * t.thresholds['under_specified']:.1f}%); mean support of this image's regions: {t.coverage[row]:.2f}"
    ),
}
