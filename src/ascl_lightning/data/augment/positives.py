"""Operations that make T+, a text as true as its caption: it says more (type II), less (type III) or the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np

from ascl_lightning.data.augment.operation import AsymmetryType, TextContext, TextOperation
from ascl_lightning.data.augment.tagging import word_classes
from ascl_lightning.data.augment.wordnet import synonyms
from ascl_lightning.errors import UserError

_EDITED_SHARE = 0.1


@dataclass(frozen=True)
class JoinCaptions(TextOperation):
    """Type II, the text says more: two captions of the image, drawn with replacement and joined by a space.

    Source: AsCL, the first author's code (docs/method.md#positives-types-ii-and-iii). Neither need be the caption
    itself.
    """

    name: ClassVar[str] = "join_captions"
    type: ClassVar[AsymmetryType] = "II"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Join two captions of the image; see `TextOperation`."""
        first, second = rng.integers(len(context.siblings), size=2)
        return f"{context.siblings[first]} {context.siblings[second]}"


@dataclass(frozen=True)
class AppendOtherCaption(TextOperation):
    """Type II, the text says more: the caption, followed by a random training caption of another image.

    Source: ours (docs/method.md#positives-types-ii-and-iii). Only the first part is known to be true of the image.
    Unchanged if no other image has a caption.

    Raises:
        ValueError: When called without the corpus of the training captions.
    """

    name: ClassVar[str] = "append_other_caption"
    type: ClassVar[AsymmetryType] = "II"
    needs_corpus: ClassVar[bool] = True

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Append a caption of another image; see `TextOperation`."""
        other = context.corpus_for(self.name).draw_other(context.image, rng)
        return caption if other is None else f"{caption} {other}"


@dataclass(frozen=True)
class FirstHalf(TextOperation):
    """Type III, the text says less: the first floor(n / 2) of n words, and at least one word.

    Source: AsCL, the first author's code; the minimum of one word is ours (docs/method.md#positives-types-ii-and-iii).
    """

    name: ClassVar[str] = "first_half"
    type: ClassVar[AsymmetryType] = "III"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Keep the first half of the words; see `TextOperation`."""
        return first_words(caption, 50)


def first_words(caption: str, percent: int) -> str:
    """The first words of a caption, at least one.

    Args:
        caption: Words separated by single spaces.
        percent: Share of the words to keep, rounded down.

    Example:
        >>> first_words("a black dog runs", 75), first_words("dogs", 25)
        ('a black dog', 'dogs')
    """
    words = caption.split()
    return " ".join(words[: max(1, len(words) * percent // 100)])


@dataclass(frozen=True)
class RandomSpan(TextOperation):
    """Type III, the text says less: consecutive words from a random place.

    The share of the words is drawn uniformly between two bounds, and the place uniformly among those where the span
    fits. At least one word stays.

    Source: ours (docs/method.md#positives-types-ii-and-iii), after AsCL's first half.

    Args:
        probability: See `TextOperation`.
        least: Smallest share of the words to keep.
        most: Largest share of the words to keep.

    Raises:
        UserError: Unless 0 < least <= most <= 1.
    """

    name: ClassVar[str] = "random_span"
    type: ClassVar[AsymmetryType] = "III"
    least: float = 0.4
    most: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.least <= self.most <= 1:
            raise UserError(
                f"the shares of the text operation {self.name!r} are least={self.least} and most={self.most}; give "
                f"0 < least <= most <= 1"
            )

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Keep a span of the words; see `TextOperation`."""
        words = caption.split()
        if not words:
            return caption
        length = max(1, round(rng.uniform(self.least, self.most) * len(words)))
        start = int(rng.integers(len(words) - length + 1))
        return " ".join(words[start : start + length])


@dataclass(frozen=True)
class NounPhrase(TextOperation):
    """Type III, the text says less: one noun phrase, drawn from those of the caption.

    A noun phrase is a longest run of adjectives and nouns, up to its last noun. Unchanged if there is none.

    Source: ours (docs/method.md#positives-types-ii-and-iii).

    Args:
        probability: See `TextOperation`.
        tagger: Name or folder of a spaCy model that tags words in context; None takes each word's most frequent class.
        wordnet: Folder of NLTK data with WordNet; None searches NLTK's own folders.
    """

    name: ClassVar[str] = "noun_phrase"
    type: ClassVar[AsymmetryType] = "III"
    tagger: str | None = None
    wordnet: str | None = None

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Keep one noun phrase; see `TextOperation`."""
        tagged = zip(caption.split(), word_classes(caption, self.tagger, self.wordnet), strict=True)
        phrases = []
        for is_inside, run in groupby(tagged, key=lambda pair: pair[1] in ("adjective", "noun")):
            words = list(run)
            while is_inside and words and words[-1][1] != "noun":
                words.pop()
            if is_inside and words:
                phrases.append(" ".join(word for word, _ in words))
        return phrases[int(rng.integers(len(phrases)))] if phrases else caption


@dataclass(frozen=True)
class DeleteWords(TextOperation):
    """Type III, the text says less: each word is dropped with probability 0.1; at least one stays.

    Source: EDA, random deletion (Wei and Zou, EMNLP 2019); disabled in the published code
    (docs/method.md#positives-types-ii-and-iii).
    """

    name: ClassVar[str] = "delete_words"
    type: ClassVar[AsymmetryType] = "III"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Drop words; see `TextOperation`."""
        words = caption.split()
        kept = rng.random(len(words)) >= _EDITED_SHARE
        if len(words) and not kept.any():
            kept[rng.integers(len(words))] = True
        return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)


@dataclass(frozen=True)
class SynonymWords(TextOperation):
    """Same meaning: a tenth of the words, at least one, become synonyms of their most frequent sense.

    Source: EDA, synonym replacement (Wei and Zou, EMNLP 2019); disabled in the published code
    (docs/method.md#positives-types-ii-and-iii).

    Args:
        probability: See `TextOperation`.
        wordnet: Folder of NLTK data with WordNet; None searches NLTK's own folders.
    """

    name: ClassVar[str] = "synonym_words"
    type: ClassVar[AsymmetryType] = "paraphrase"
    wordnet: str | None = None

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Replace words by synonyms; see `TextOperation`."""
        words = caption.split()
        remaining = _number_of_edits(words)
        for place in rng.permutation(len(words)):
            others = synonyms(words[place], self.wordnet) if remaining else ()
            if others:
                words[place] = others[rng.integers(len(others))]
                remaining -= 1
        return " ".join(words)


@dataclass(frozen=True)
class SwapWords(TextOperation):
    """Nearly the same order: two random words are swapped, round(words / 10) times but at least once.

    Source: EDA, random swap (Wei and Zou, EMNLP 2019); disabled in the published code
    (docs/method.md#positives-types-ii-and-iii).
    """

    name: ClassVar[str] = "swap_words"
    type: ClassVar[AsymmetryType] = "paraphrase"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Swap words; see `TextOperation`."""
        words = caption.split()
        if len(words) > 1:
            for _ in range(_number_of_edits(words)):
                first, second = rng.choice(len(words), size=2, replace=False)
                words[first], words[second] = words[second], words[first]
        return " ".join(words)


def _number_of_edits(words: Sequence[str]) -> int:
    return max(1, round(_EDITED_SHARE * len(words)))
