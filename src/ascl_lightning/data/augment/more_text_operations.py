"""Operations on words beyond the paper: other wordings for T+, and single wrong details for T-."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from ascl_lightning.data.augment.tagging import word_classes
from ascl_lightning.data.augment.text_operations import AsymmetryType, TextContext, TextOperation
from ascl_lightning.data.augment.wordnet import WordClass, open_wordnet
from ascl_lightning.data.text import Vocabulary

_EDITED_SHARE = 0.1
_SIMILAR_CAPTIONS = 5

_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_DIGITS = tuple(str(number) for number in range(1, 13))

_OPPOSITES = (
    ("left", "right"),
    ("above", "below"),
    ("over", "under"),
    ("on top of", "underneath"),
    ("on", "under"),
    ("inside", "outside"),
    ("in front of", "behind"),
    ("next to", "far from"),
    ("near", "far from"),
    ("into", "out of"),
    ("up", "down"),
    ("with", "without"),
    ("before", "after"),
    ("top", "bottom"),
)


@dataclass(frozen=True)
class SynonymWords(TextOperation):
    """T+ in other words: a tenth of the words, at least one, replaced by synonyms of their most frequent sense.

    Source: EDA, synonym replacement (Wei and Zou, EMNLP 2019), off in the published code
    (docs/method.md#positives-types-ii-and-iii).

    Args:
        probability: See `TextOperation`.
        wordnet: Folder of NLTK data with WordNet; None: where NLTK looks for it.
    """

    name: ClassVar[str] = "synonym_words"
    type: ClassVar[AsymmetryType] = "paraphrase"
    wordnet: str | None = None

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Replace words by synonyms; see `TextOperation`."""
        words = caption.split()
        remaining = _number_of_edits(words)
        for place in rng.permutation(len(words)):
            synonyms = _synonyms(words[place], self.wordnet) if remaining else ()
            if synonyms:
                words[place] = synonyms[rng.integers(len(synonyms))]
                remaining -= 1
        return " ".join(words)


@dataclass(frozen=True)
class DeleteWords(TextOperation):
    """T+ that says less: each word left out with a chance of one in ten; one word stays.

    Source: EDA, random deletion (Wei and Zou, EMNLP 2019), off in the published code
    (docs/method.md#positives-types-ii-and-iii).
    """

    name: ClassVar[str] = "delete_words"
    type: ClassVar[AsymmetryType] = "III"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Leave words out; see `TextOperation`."""
        words = caption.split()
        kept = rng.random(len(words)) >= _EDITED_SHARE
        if len(words) and not kept.any():
            kept[rng.integers(len(words))] = True
        return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)


@dataclass(frozen=True)
class SwapWords(TextOperation):
    """T+ in a slightly other order: a tenth as many times as there are words, at least once, two words swapped.

    Source: EDA, random swap (Wei and Zou, EMNLP 2019), off in the published code
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


@dataclass(frozen=True)
class SwapByClass(TextOperation):
    """Type I, a detail is wrong: one word of a class replaced by one that contrasts with it.

    Source: ours (docs/method.md#negatives-in-words).

    Args:
        probability: See `TextOperation`.
        candidates: From WordNet, antonyms and co-hyponyms; or from the vocabulary of the training captions, words of
            the same class.
        tagger: Name or folder of a spaCy model that tags words in the caption's context; None: each word is of its most
            frequent class.
        wordnet: Folder of NLTK data with WordNet; None: where NLTK looks for it.

    Raises:
        ValueError: When called for candidates of the vocabulary without one.
    """

    word_class: ClassVar[WordClass]
    type: ClassVar[AsymmetryType] = "I"
    candidates: Literal["wordnet", "vocabulary"] = "wordnet"
    tagger: str | None = None
    wordnet: str | None = None

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Replace one word of the class; see `TextOperation`."""
        words = caption.split()
        for place in rng.permutation(_places(caption, self.word_class, self.tagger, self.wordnet)):
            candidates = self._candidates(words[place], context.vocabulary)
            if candidates:
                words[place] = candidates[int(rng.integers(len(candidates)))]
                break
        return " ".join(words)

    def _candidates(self, word: str, vocabulary: Vocabulary | None) -> Sequence[str]:
        if self.candidates == "wordnet":
            return _contrasts(word, self.word_class, self.wordnet)
        if vocabulary is None:
            raise ValueError(f"{self.name} needs the vocabulary of the training captions in its context")
        same_class = _of_class(_Identity(vocabulary), self.word_class, self.wordnet)
        same = {word, *_synonyms(word, self.wordnet)}
        return [other for other in same_class if other not in same]


@dataclass(frozen=True)
class SwapAttribute(SwapByClass):
    """Type I: a wrong attribute (red becomes blue, big becomes small). See `SwapByClass`."""

    name: ClassVar[str] = "swap_attribute"
    word_class: ClassVar[WordClass] = "adjective"


@dataclass(frozen=True)
class SwapNoun(SwapByClass):
    """Type I: a wrong thing (a dog becomes a wolf). See `SwapByClass`."""

    name: ClassVar[str] = "swap_noun"
    word_class: ClassVar[WordClass] = "noun"


@dataclass(frozen=True)
class SwapVerb(SwapByClass):
    """Type I: a wrong doing (walking becomes running). See `SwapByClass`."""

    name: ClassVar[str] = "swap_verb"
    word_class: ClassVar[WordClass] = "verb"


@dataclass(frozen=True)
class DropByClass(TextOperation):
    """Type I, a detail is missing: one word of a class left out, unless it is the only word.

    Source: ours (docs/method.md#negatives-in-words), after AsCL's zeroing of one random word's feature.

    Args:
        probability: See `TextOperation`.
        tagger: See `SwapByClass`.
        wordnet: See `SwapByClass`.
    """

    word_class: ClassVar[WordClass]
    type: ClassVar[AsymmetryType] = "I"
    tagger: str | None = None
    wordnet: str | None = None

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Leave one word of the class out; see `TextOperation`."""
        words = caption.split()
        places = _places(caption, self.word_class, self.tagger, self.wordnet)
        if places and len(words) > 1:
            del words[places[int(rng.integers(len(places)))]]
        return " ".join(words)


@dataclass(frozen=True)
class DropAttribute(DropByClass):
    """Type I: an attribute is missing (a red ball becomes a ball). See `DropByClass`."""

    name: ClassVar[str] = "drop_attribute"
    word_class: ClassVar[WordClass] = "adjective"


@dataclass(frozen=True)
class DropNoun(DropByClass):
    """Type I: a thing is missing. See `DropByClass`."""

    name: ClassVar[str] = "drop_noun"
    word_class: ClassVar[WordClass] = "noun"


class _Phrases(ABC):
    """Where phrases of a closed list stand in a caption."""

    @abstractmethod
    def _find(self, words: Sequence[str]) -> list[tuple[int, int, Sequence[str]]]:
        """Where a phrase begins, its number of words, and what may take its place."""


class _Numbers(_Phrases):
    """From one to twelve, in words or digits."""

    def _find(self, words: Sequence[str]) -> list[tuple[int, int, Sequence[str]]]:
        return [
            (place, 1, [other for other in form if other != word])
            for place, word in enumerate(words)
            for form in (_NUMBERS, _DIGITS)
            if word in form
        ]


class _Relations(_Phrases):
    """Where things stand to each other."""

    def _find(self, words: Sequence[str]) -> list[tuple[int, int, Sequence[str]]]:
        found: list[tuple[int, int, Sequence[str]]] = []
        place = 0
        while place < len(words):
            # "in front of" before "in": the longest phrase that stands here
            lengths = (length for length in (3, 2, 1) if " ".join(words[place : place + length]) in _RELATIONS)
            length = next(lengths, 0)
            if length:
                found.append((place, length, _RELATIONS[" ".join(words[place : place + length])]))
            place += max(1, length)
        return found


@dataclass(frozen=True)
class SwapPhrase(_Phrases, TextOperation):
    """Type I, a detail is wrong: one phrase of a closed list replaced by another.

    Source: ours (docs/method.md#negatives-in-words).
    """

    type: ClassVar[AsymmetryType] = "I"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Replace one phrase; see `TextOperation`."""
        words = caption.split()
        found = self._find(words)
        if not found:
            return caption
        start, length, others = found[int(rng.integers(len(found)))]
        return " ".join([*words[:start], others[int(rng.integers(len(others)))], *words[start + length :]])


@dataclass(frozen=True)
class SwapNumber(_Numbers, SwapPhrase):
    """Type I: a wrong number, from one to twelve, in words or digits as it stood. See `SwapPhrase`."""

    name: ClassVar[str] = "swap_number"


@dataclass(frozen=True)
class SwapRelation(_Relations, SwapPhrase):
    """Type I: a wrong relation, the opposite of what stood (above, below; in front of, behind). See `SwapPhrase`."""

    name: ClassVar[str] = "swap_relation"


@dataclass(frozen=True)
class DropPhrase(_Phrases, TextOperation):
    """Type I, a detail is missing: one phrase of a closed list left out, unless nothing else is there.

    Source: ours (docs/method.md#negatives-in-words).
    """

    type: ClassVar[AsymmetryType] = "I"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Leave one phrase out; see `TextOperation`."""
        words = caption.split()
        found = [(start, length) for start, length, _ in self._find(words) if length < len(words)]
        if found:
            start, length = found[int(rng.integers(len(found)))]
            del words[start : start + length]
        return " ".join(words)


@dataclass(frozen=True)
class DropNumber(_Numbers, DropPhrase):
    """Type I: a number is missing. See `DropPhrase`."""

    name: ClassVar[str] = "drop_number"


@dataclass(frozen=True)
class DropRelation(_Relations, DropPhrase):
    """Type I: a relation is missing (a dog in front of a house becomes a dog a house). See `DropPhrase`."""

    name: ClassVar[str] = "drop_relation"


@dataclass(frozen=True)
class SimilarCaption(TextOperation):
    """Type I, details are wrong: one of the five captions of other images that share the most words.

    Source: ours (docs/method.md#negatives-in-words): a hard negative that people wrote.

    Raises:
        ValueError: When called without the corpus of the training captions.
    """

    name: ClassVar[str] = "similar_caption"
    type: ClassVar[AsymmetryType] = "I"
    needs_corpus: ClassVar[bool] = True

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Take a caption of another image; see `TextOperation`."""
        if context.corpus is None:
            raise ValueError(f"{self.name} needs the corpus of the training captions in its context")
        found = context.corpus.similar(caption, context.image, _SIMILAR_CAPTIONS + len(context.siblings))
        others = [text for text in found if text not in context.siblings][:_SIMILAR_CAPTIONS]
        return others[rng.integers(len(others))] if others else caption


def _places(caption: str, kind: WordClass, tagger: str | None, wordnet: str | None) -> list[int]:
    """Where the words of a class stand."""
    return [place for place, found in enumerate(word_classes(caption, tagger, wordnet)) if found == kind]


def _number_of_edits(words: Sequence[str]) -> int:
    return max(1, round(_EDITED_SHARE * len(words)))


def _opposites() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for pair in _OPPOSITES:
        for phrase, opposite in (pair, pair[::-1]):
            found[phrase] = (*found.get(phrase, ()), opposite)
    return found


_RELATIONS = _opposites()


@lru_cache(maxsize=1 << 16)
def _synonyms(word: str, wordnet: str | None) -> tuple[str, ...]:
    return tuple(open_wordnet(wordnet).synonyms(word))


@lru_cache(maxsize=1 << 16)
def _contrasts(word: str, kind: WordClass, wordnet: str | None) -> tuple[str, ...]:
    return tuple(open_wordnet(wordnet).contrasts(word, kind))


class _Identity:
    """Stands for a vocabulary in a cache: hashing its words anew would take longer than what is cached."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.vocabulary is self.vocabulary

    def __hash__(self) -> int:
        return id(self.vocabulary)


@lru_cache(maxsize=16)
def _of_class(identity: _Identity, kind: WordClass, wordnet: str | None) -> tuple[str, ...]:
    net = open_wordnet(wordnet)
    return tuple(word for word in identity.vocabulary.words if net.word_class(word) == kind)
