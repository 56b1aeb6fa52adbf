"""Checks the captions of a split, image by image, in a few bytes of memory per caption."""

import re
import unicodedata
from array import array
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from ascl_lightning.curation.check.findings import Finding, Tally
from ascl_lightning.curation.check.kinds import Severity
from ascl_lightning.data.text import MAX_WORDS, Tokenizer, clean_caption

NOTED_SHARE = 0.01
"""Fraction of long or cut captions up to which they are a note and not a warning."""

_TOKENIZED_TOGETHER = 512
_QUOTED = 100
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<!--|&(?:[a-zA-Z]{2,8}|#[0-9]{1,6}|#[xX][0-9a-fA-F]{1,6});")
_MALFORMED = ("wordless_captions", "garbled_captions", "control_characters", "markup_captions")


def malformations(text: str) -> Iterator[str]:
    """Yields the names in `KINDS` of the faults of a caption.

    Examples:
        >>> list(malformations("A dog &amp; a cat")), list(malformations("?!")), list(malformations("ein Hund"))
        (['markup_captions'], ['wordless_captions'], [])
    """
    if not any(map(str.isalpha, text)):
        yield "wordless_captions"
    if "\ufffd" in text:
        yield "garbled_captions"
    # line ends and tabs count as white space
    if not text.isprintable() and any(unicodedata.category(c) == "Cc" and not c.isspace() for c in text):
        yield "control_characters"
    if _MARKUP.search(text):
        yield "markup_captions"


def quoted(text: str) -> str:
    """A caption as an example: on one line, shortened, with control characters escaped."""
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}...")


def fingerprint(caption: str) -> int:
    """A hash of the cleaned caption, valid within one process."""
    return hash(clean_caption(caption))


class Captions:
    """Statistics of the captions of a split; stores 12 bytes per caption.

    Args:
        tokenizer: Tokenizer of the text encoder, without its length limit. None if it is unavailable.
        max_length: The length limit in tokens.
    """

    def __init__(self, tokenizer: Tokenizer | None, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._malformed = {kind: Tally() for kind in _MALFORMED}
        self._repeated, self._long, self._cut, self._uncaptioned = Tally(), Tally(), Tally(), Tally()
        self._words_dropped = self._tokens = self._tokens_cut = 0
        self._counts = array("I")
        self._fingerprints = array("q")
        self._images = array("I")
        self._waiting: list[tuple[str, str]] = []

    @property
    def per_image(self) -> Int[np.ndarray, " N"]:
        """Number of captions of each image."""
        return np.array(self._counts, np.int64)

    @property
    def fingerprints(self) -> Int[np.ndarray, " M"]:
        """Fingerprint of each caption, without repetitions within an image."""
        return np.array(self._fingerprints, np.int64)

    @property
    def images(self) -> Int[np.ndarray, " M"]:
        """Image row of each fingerprint."""
        return np.array(self._images, np.int64)

    @property
    def tokens(self) -> int | None:
        """Number of tokens of all captions before truncation. None if the tokenizer is unavailable."""
        self._tokenize()
        return None if self._tokenizer is None else self._tokens

    def add(self, place: str, texts: tuple[str, ...]) -> None:
        """Checks the captions of the next image.

        Args:
            place: Name of the image for examples.
            texts: Captions of the image.
        """
        seen: set[int] = set()
        for text in texts:
            example = f"{place}: {quoted(text)}"
            for kind in malformations(text):
                self._malformed[kind].add(example)
            cleaned = self._shortened(clean_caption(text, None), example)
            if hash(cleaned) in seen:
                self._repeated.add(example)
            seen.add(hash(cleaned))
            self._waiting.append((example, cleaned))
        if not texts:
            self._uncaptioned.add(place)
        self._images.extend([len(self._counts)] * len(seen))
        self._counts.append(len(texts))
        self._fingerprints.extend(seen)
        if len(self._waiting) >= _TOKENIZED_TOGETHER:
            self._tokenize()

    def findings(self, split: str) -> Iterator[Finding]:
        """Yields all findings, also those with a count of 0."""
        self._tokenize()
        total = int(self.per_image.sum())
        for kind, tally in self._malformed.items():
            yield Finding.of(kind, split, tally, total)
        yield Finding.of("repeated_captions", split, self._repeated, total)
        weight, dropped = _weight(self._long, total), self._words_dropped
        yield Finding.of("long_captions", split, self._long, total, weight, limit=MAX_WORDS, words=dropped)
        weight, limit, cut = _weight(self._cut, total), self._max_length, self._tokens_cut
        share = cut / max(1, self._tokens)
        yield Finding.of("cut_captions", split, self._cut, total, weight, limit=limit, cut=cut, share=share)
        # a few images without captions do no harm, but a split without any caption cannot be used
        yield Finding.of(
            "uncaptioned_images", split, self._uncaptioned, len(self._counts), "note" if total else "error"
        )

    def _shortened(self, cleaned: str, example: str) -> str:
        num_words = cleaned.count(" ") + 1
        if num_words <= MAX_WORDS:
            return cleaned
        self._long.add(example)
        self._words_dropped += num_words - MAX_WORDS
        return " ".join(cleaned.split(" ")[:MAX_WORDS])

    def _tokenize(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._tokenizer is None or not waiting:
            return
        tokenized, _ = self._tokenizer([text for _, text in waiting])
        for (example, _), length in zip(waiting, tokenized.attention_mask.sum(dim=1).tolist(), strict=True):
            self._tokens += length
            if length > self._max_length:
                self._cut.add(example)
                self._tokens_cut += length - self._max_length


def _weight(tally: Tally, total: int) -> Severity:
    return "warning" if tally.count > NOTED_SHARE * total else "note"
