"""Captions of other images: random ones, or those that share many words with a caption."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from ascl_lightning.data.text import clean_caption

MAX_CANDIDATES = 512
"""Maximum number of captions compared with one caption: those that share its rarest words."""


class CaptionCorpus:
    """Word index of the training captions, in compact arrays.

    Args:
        captions: The captions of each image, of the split `train` only.
    """

    def __init__(self, captions: Sequence[tuple[str, ...]]) -> None:
        self._texts = [clean_caption(text) for of_image in captions for text in of_image]
        self._images = np.repeat(np.arange(len(captions)), [len(of_image) for of_image in captions])
        word_sets = [sorted(set(text.split())) for text in self._texts]
        words = sorted(set(chain.from_iterable(word_sets)))
        self._ids = {word: i for i, word in enumerate(words)}
        # concatenated lists: the words of each caption, the captions of each word
        self._sizes = np.array([len(of_text) for of_text in word_sets], np.int32)
        word_of = np.fromiter((self._ids[word] for of_text in word_sets for word in of_text), np.int32)
        order = word_of.argsort(kind="stable")
        self._holders = np.repeat(np.arange(len(word_sets), dtype=np.int32), self._sizes)[order]
        self._starts = np.searchsorted(word_of[order], np.arange(len(words) + 1))

    def similar(self, text: str, image: int | None, count: int) -> list[str]:
        """Captions of other images with the highest word overlap, best first; ties in order of their rows.

        Overlap is the Jaccard index of the word sets. Only captions that share one of the rarest words are compared,
        at most `MAX_CANDIDATES`.

        Args:
            text: A cleaned caption.
            image: Row of its image, whose own captions are skipped; None if unknown.
            count: Maximum number of captions.
        """
        words = sorted({self._ids[word] for word in text.split() if word in self._ids}, key=self._frequency)
        candidates = self._candidates(words, image)
        if not len(candidates):
            return []
        shared = np.zeros(len(candidates), np.int32)
        for word in words:
            holders = self._of_word(word)
            places = np.searchsorted(holders, candidates).clip(max=len(holders) - 1)
            shared += holders[places] == candidates
        overlap = shared / (len(set(text.split())) + self._sizes[candidates] - shared)
        best = candidates[np.lexsort((candidates, -overlap))]
        distinct = dict.fromkeys(self._texts[row] for row in best.tolist())
        return [found for found in distinct if found != text][:count]

    def draw_other(self, image: int | None, rng: np.random.Generator) -> str | None:
        """A random caption of another image; all are equally likely. None if there is none.

        Args:
            image: Row of the image whose captions are skipped; None if it is not in the corpus.
            rng: Source of the draw.
        """
        start, end = (0, 0) if image is None else np.searchsorted(self._images, [image, image + 1])
        others = len(self._texts) - int(end - start)
        if not others:
            return None
        row = int(rng.integers(others))
        return self._texts[row if row < start else row + int(end - start)]

    def _frequency(self, word: int) -> tuple[int, int]:
        return int(self._starts[word + 1] - self._starts[word]), word

    def _of_word(self, word: int) -> np.ndarray:
        return self._holders[self._starts[word] : self._starts[word + 1]]

    def _candidates(self, words: Sequence[int], image: int | None) -> np.ndarray:
        """Captions of other images that hold the rarest words, sorted."""
        found = np.zeros(0, np.int32)
        for word in words:
            holders = self._of_word(word)
            fresh = holders if image is None else holders[self._images[holders] != image]
            found = np.union1d(found, fresh[: MAX_CANDIDATES - len(found)])
            if len(found) >= MAX_CANDIDATES:
                break
        return found
