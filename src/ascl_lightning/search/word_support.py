"""What support words have in pictures, and what they usually have: in their own pictures, and in any others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.data.text import Tokenizer
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.grounding import align_positions, ground, support_by_word

_PAIRS_PER_PASS = 256
_PRIOR = 10
"""Occurrences that all words together count for in what is usual of one: a word met once says little."""
UNSUPPORTED = float(np.log(3))
"""Doubt from which a word counts as unsupported: its support is three times likelier for a picture without it."""


@dataclass(frozen=True, eq=False)
class PairSupport:
    """Support in P pairs of a picture and a text, the words of all texts one after another.

    Args:
        words: The words that the model read, (W,).
        pairs: The pair of each, in order, (W,).
        support: Support of each in its picture, (W,).
        coverage: Mean support of the picture's regions by the words, (P,).
    """

    words: np.ndarray
    pairs: Int[np.ndarray, " W"]
    support: Float[np.ndarray, " W"]
    coverage: Float[np.ndarray, " P"]


@torch.no_grad()
def pair_support(
    similarity: FusedSimilarity,
    tokenizer: Tokenizer,
    gallery: Gallery,
    captions: Sequence[str],
    image_numbers: Int[Tensor, " P"],
    text_numbers: Int[Tensor, " P"],
) -> PairSupport:
    """Support of each word and coverage of each picture, of pairs in a gallery.

    Args:
        similarity: Of the model that encoded the gallery.
        tokenizer: Likewise.
        gallery: The encoded images and texts.
        captions: All texts of the gallery by number, cleaned.
        image_numbers: The image of each pair.
        text_numbers: The text of each pair.
    """
    words: list[str] = []
    pairs: list[np.ndarray] = []
    support: list[np.ndarray] = []
    coverage: list[np.ndarray] = []
    for start in range(0, len(text_numbers), _PAIRS_PER_PASS):
        chosen = slice(start, start + _PAIRS_PER_PASS)
        images, texts = gallery.images.select(image_numbers[chosen]), gallery.texts.select(text_numbers[chosen])
        grounding = ground(similarity, images, texts)
        read = [captions[number] for number in text_numbers[chosen].tolist()]
        positions = align_positions(tokenizer.word_positions(read), texts.mask.cpu())
        by_word = support_by_word(grounding.word_support.float().cpu(), positions).numpy()
        known = ~np.isnan(by_word)
        for row, text in enumerate(read):
            words += [word for word, is_known in zip(text.split(), known[row], strict=False) if is_known]
        pairs.append(start + np.nonzero(known)[0])
        support.append(by_word[known])
        regions = images.mask.sum(1).clamp_min(1)
        coverage.append((grounding.region_support.sum(1) / regions).float().cpu().numpy())
    return PairSupport(np.array(words), np.concatenate(pairs), np.concatenate(support), np.concatenate(coverage))


@dataclass(frozen=True, eq=False)
class UsualSupport:
    """What support words usually have.

    Args:
        place: Of each known word its place in the arrays; their last entry is that of all words together.
        own: Mean support in pictures whose captions have the word.
        other: Mean support in pictures drawn at random.
        spread: Standard deviation around either.
    """

    place: dict[str, int]
    own: Float[np.ndarray, " V"]
    other: Float[np.ndarray, " V"]
    spread: Float[np.ndarray, " V"]

    @classmethod
    def of(cls, words: np.ndarray, own: Float[np.ndarray, " W"], other: Float[np.ndarray, " W"]) -> "UsualSupport":
        """From occurrences of words: the support of each in its own picture, and in one drawn at random.

        Every word's figures are mixed with those of all words, as if it had come 10 times more.

        Raises:
            ValueError: If there are no words.
        """
        if not len(words):
            raise ValueError("nothing is usual of no words")
        names, inverse = np.unique(words, return_inverse=True)
        counts = np.bincount(inverse)

        def mixed(values: np.ndarray) -> np.ndarray:
            sums = np.bincount(inverse, values)
            return np.append((sums + _PRIOR * values.mean()) / (counts + _PRIOR), values.mean())

        of_own, of_other = mixed(own), mixed(other)
        squares = ((own - of_own[inverse]) ** 2 + (other - of_other[inverse]) ** 2) / 2
        place = {str(name): number for number, name in enumerate(names)}
        return cls(place, of_own, of_other, np.sqrt(np.maximum(mixed(squares), 1e-12)))

    def doubt(self, words: Sequence[str] | np.ndarray, support: Float[np.ndarray, " W"]) -> Float[np.ndarray, " W"]:
        """How much speaks against each word: the log of how much likelier its support is in a picture without it.

        Support is taken as normal around `own` or `other` with one spread, so that doubt falls with support. A word
        that any picture supports alike, as "a" may be, is never in doubt, nor vouched for.
        """
        places = [self.place.get(str(word), len(self.place)) for word in words]
        own, other, spread = self.own[places], self.other[places], self.spread[places]
        return np.maximum(own - other, 0) * ((own + other) / 2 - support) / spread**2
