"""Which pairs of a split are better left out of training: captions that say too much, too little, or the wrong.

Of each pair there are four numbers, and above a threshold it is flagged:

- `mismatched`: how much worse the pair fits than random ones, in their spreads; of a good pair it is negative
  (`pair_fit`). Threshold: from where on a pair more likely than not does not belong together (`fit_threshold`).
- `duplicate`: how often this picture came with this caption up to here. Threshold: 1.
- `over_long`: how much speaks against its words, the sum of their doubts that are positive (`UsualSupport.doubt`):
  words that nothing in the picture supports in a caption that otherwise fits.
- `under_specified`: the share of other pictures that the caption fits at least as well as its own.

The latter two are judged among pairs that are not mismatched; their thresholds are outer fences (Tukey 1977): the upper
quartile and three times the distance between the quartiles, but no less than `LEAST`. Which words are usual of a
picture is learnt from pairs that are not mismatched.
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
"""Least thresholds of the kinds that are judged among pairs which are not mismatched."""


@dataclass(frozen=True, eq=False)
class Triage:
    """What there is to say of each of M pairs, in the order of the gallery's texts.

    Args:
        captions: Cleaned.
        score: The score that the model ranks by.
        chance: Share of random pairs that fit at least as well.
        numbers: Of each kind the number of each pair.
        thresholds: Of each kind; above it a pair is flagged. inf: none is.
        flags: Of each kind which pairs are flagged.
        words: The words of each pair that the model read.
        support: Support of each in the picture.
        unsupported: Which of them are in doubt (`UNSUPPORTED`).
        coverage: Mean support of the picture's regions by the words.
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
        """Kinds that a pair is flagged as, the worst first."""
        return [kind for kind in KINDS if kind in self.flags and self.flags[kind][row]]

    def reason(self, row: int) -> str:
        """Why a pair is flagged, in words; "" if it is not."""
        return "; ".join(_REASONS[kind](self, row) for kind in self.flags_of(row))

    @property
    def flagged(self) -> Bool[np.ndarray, " M"]:
        """Pairs with any flag."""
        return np.any(list(self.flags.values()), axis=0) if self.flags else np.zeros(len(self), np.bool_)


def triage(
    similarity: FusedSimilarity,
    tokenizer: Tokenizer,
    gallery: Gallery,
    captions: Sequence[str],
    kinds: Collection[str] = KINDS,
    seed: int = 0,
) -> Triage:
    """Judges every pair of a split.

    Args:
        similarity: Of the model that encoded the gallery.
        tokenizer: Likewise.
        gallery: The encoded split.
        captions: Its captions by number, cleaned.
        kinds: What to flag; all numbers are computed.
        seed: Of what pairs are compared with.

    Raises:
        UserError: If fewer than 2 images have captions.
    """
    fit, texts = pair_fit(gallery, seed), torch.arange(len(captions), device=gallery.image_of_text.device)
    own = pair_support(similarity, tokenizer, gallery, captions, gallery.image_of_text, texts)
    strangers = _other_images(gallery, seed)
    other = pair_support(similarity, tokenizer, gallery, captions, strangers, texts)
    thresholds = {"mismatched": -fit_threshold(fit.fit), "duplicate": 1.0}
    belongs = -fit.fit <= thresholds["mismatched"]
    # where nothing fits there is nothing better to learn from
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
    """The upper quartile and three times the distance between the quartiles (Tukey 1977).

    Examples:
        >>> outer_fence(np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
        9.0
    """
    lower, upper = np.quantile(values, [0.25, 0.75]) if len(values) else (0.0, np.inf)
    return float(upper + 3 * (upper - lower))


def occurrences(gallery: Gallery, captions: Sequence[str]) -> Int[np.ndarray, " M"]:
    """How often the picture of each caption came with it up to here: 2 for the first repetition.

    Pictures are the same where the model gives them the same embedding to three decimals, whatever their ids.
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
    """For each text a picture that is not its own, drawn at random."""
    num_images, own = len(gallery.images.ids), gallery.image_of_text
    steps = np.random.default_rng(seed).integers(1, num_images, len(own))
    return (own + torch.from_numpy(steps).to(own.device)) % num_images


def _by_pair(values: np.ndarray, of: PairSupport) -> list[np.ndarray]:
    return np.split(values, np.searchsorted(of.pairs, np.arange(1, len(of.coverage))))


_REASONS: dict[str, Callable[[Triage, int], str]] = {
    "mismatched": lambda t, row: (
        f"{100 * t.chance[row]:.1f}% of random pairs fit as well: {-t.numbers['mismatched'][row]:.1f} spreads above "
        f"their mean (flagged below {-t.thresholds['mismatched']:.1f})"
    ),
    "duplicate": lambda t, row: f"the picture came with this caption before: time {t.numbers['duplicate'][row]}",
    "over_long": lambda t, row: (
        f"nothing in the picture supports '{' '.join(t.unsupported[row])}': doubt {t.numbers['over_long'][row]:.1f} "
        f"(flagged above {t.thresholds['over_long']:.1f})"
    ),
    "under_specified": lambda t, row: (
        f"the caption fits {100 * t.numbers['under_specified'][row]:.1f}% of other pictures as well (flagged above "
        f"{100 * t.thresholds['under_specified']:.1f}%); its words support this one's regions by {t.coverage[row]:.2f}"
    ),
}
