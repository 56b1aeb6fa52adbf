"""Support of words in images, and its usual values in matching and in random images."""

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
"""Weight of the mean over all words, in occurrences, in the estimate for one word; rare words are shrunk to it."""
UNSUPPORTED = float(np.log(3))
"""Doubt above which a word is unsupported: its support is three times likelier in a random image."""


@dataclass(frozen=True, eq=False)
class PairSupport:
    """Support of the W words of P pairs of an image and a text, concatenated.

    Args:
        words: Words that the model read, (W,).
        pairs: Index of each word's pair, ascending, (W,).
        support: Support of each word in its image, (W,).
        coverage: Mean support of the image's regions by the words, (P,).
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
    """For each pair: how strongly the image supports each word, and how well the words cover the image.

    The support of a word is its cosine with the regions that it attends to.

    Args:
        similarity: Similarity of the model that encoded the gallery.
        tokenizer: Tokenizer of the same model.
        gallery: The encoded images and texts.
        captions: All cleaned texts, in the order of the gallery.
        image_numbers: Image of each pair.
        text_numbers: Text of each pair.
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
    """Usual support of V words.

    Args:
        place: Index of each known word in the arrays; the last entry of the arrays is for unknown words.
        own: Mean support in images whose captions contain the word.
        other: Mean support in random images.
        spread: Standard deviation around both means.
    """

    place: dict[str, int]
    own: Float[np.ndarray, " V"]
    other: Float[np.ndarray, " V"]
    spread: Float[np.ndarray, " V"]

    @classmethod
    def of(cls, words: np.ndarray, own: Float[np.ndarray, " W"], other: Float[np.ndarray, " W"]) -> "UsualSupport":
        """Estimates the usual support from occurrences of words.

        Each word's mean is shrunk to the mean over all words, which counts as 10 occurrences.

        Args:
            words: The words.
            own: Support of each in its own image.
            other: Support of each in a random image.

        Raises:
            ValueError: If there are no words.
        """
        if not len(words):
            raise ValueError("the usual support cannot be estimated without words")
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
        """Log likelihood ratio of each word's support in a random image to that in an image with the word.

        Support is modelled as normal around `own` or `other` with the same spread, so doubt decreases with support. A
        word with equal support in all images, such as "a", has doubt 0.
        """
        places = [self.place.get(str(word), len(self.place)) for word in words]
        own, other, spread = self.own[places], self.other[places], self.spread[places]
        return np.maximum(own - other, 0) * ((own + other) / 2 - support) / spread**2
