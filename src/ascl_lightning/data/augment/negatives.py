"""Operations that make T-, a text with something wrong in it (type I), at word level.

T- on word features is made in `models.perturb`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ascl_lightning.data.augment.operation import AsymmetryType, TextContext, TextOperation
from ascl_lightning.data.augment.tagging import word_classes
from ascl_lightning.data.augment.wordnet import WordClass, contrasts, synonyms, words_of_class
from ascl_lightning.data.text import Vocabulary

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
_RELATIONS: dict[str, tuple[str, ...]] = {}
for _first, _second in _OPPOSITES:
    _RELATIONS[_first] = (*_RELATIONS.get(_first, ()), _second)
    _RELATIONS[_second] = (*_RELATIONS.get(_second, ()), _first)


@dataclass(frozen=True)
class ShuffleWords(TextOperation):
    """Type I, the order is wrong: the words in random order.

    Source: AsCL shuffles word features; we shuffle the words themselves, as the text encoder reads their order
    (docs/method.md#negatives-in-words).
    """

    name: ClassVar[str] = "shuffle_words"
    type: ClassVar[AsymmetryType] = "I"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Put the words in random order; see `TextOperation`."""
        words = caption.split()
        return " ".join(words[position] for position in rng.permutation(len(words)))


@dataclass(frozen=True)
class DropWord(TextOperation):
    """Type I, a detail is missing: one random word removed, unless it is the only one.

    Source: ours (docs/method.md#negatives-in-words), after AsCL's zeroing of one random word's feature.
    """

    name: ClassVar[str] = "drop_word"
    type: ClassVar[AsymmetryType] = "I"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Remove one word; see `TextOperation`."""
        words = caption.split()
        return _without_one(words, [(place, 1) for place in range(len(words))], rng)


@dataclass(frozen=True)
class ReplaceWord(TextOperation):
    """Type I, a detail is wrong: one random word becomes another word of the training captions' vocabulary.

    Source: ours (docs/method.md#negatives-in-words).

    Raises:
        ValueError: When called without a vocabulary.
    """

    name: ClassVar[str] = "replace_word"
    type: ClassVar[AsymmetryType] = "I"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Replace one word; see `TextOperation`."""
        if context.vocabulary is None:
            raise ValueError(f"{self.name} needs the vocabulary of the training captions in its context")
        words = caption.split()
        if not words:
            return caption
        position = rng.integers(len(words))
        words[position] = context.vocabulary.draw(rng, avoid=words[position]) or words[position]
        return " ".join(words)


@dataclass(frozen=True)
class SwapByClass(TextOperation):
    """Type I, a detail is wrong: one word of a class becomes a contrasting word.

    Source: ours (docs/method.md#negatives-in-words).

    Args:
        probability: See `TextOperation`.
        candidates: `wordnet` takes antonyms and co-hyponyms; `vocabulary` takes words of the same class from the
            training captions.
        tagger: Name or folder of a spaCy model that tags words in context; None takes each word's most frequent class.
        wordnet: Folder of NLTK data with WordNet; None searches NLTK's own folders.

    Raises:
        ValueError: When called with `candidates="vocabulary"` but no vocabulary.
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
            return contrasts(word, self.word_class, self.wordnet)
        if vocabulary is None:
            raise ValueError(f"{self.name} needs the vocabulary of the training captions in its context")
        same = {word, *synonyms(word, self.wordnet)}
        return [other for other in words_of_class(vocabulary, self.word_class, self.wordnet) if other not in same]


@dataclass(frozen=True)
class SwapAttribute(SwapByClass):
    """Type I: a wrong attribute (red becomes blue, big becomes small). See `SwapByClass`."""

    name: ClassVar[str] = "swap_attribute"
    word_class: ClassVar[WordClass] = "adjective"


@dataclass(frozen=True)
class SwapNoun(SwapByClass):
    """Type I: a wrong noun (a dog becomes a wolf). See `SwapByClass`."""

    name: ClassVar[str] = "swap_noun"
    word_class: ClassVar[WordClass] = "noun"


@dataclass(frozen=True)
class SwapVerb(SwapByClass):
    """Type I: a wrong verb (walking becomes running). See `SwapByClass`."""

    name: ClassVar[str] = "swap_verb"
    word_class: ClassVar[WordClass] = "verb"


@dataclass(frozen=True)
class DropByClass(TextOperation):
    """Type I, a detail is missing: one word of a class is dropped, unless it is the only word.

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
        """Drop one word of the class; see `TextOperation`."""
        places = _places(caption, self.word_class, self.tagger, self.wordnet)
        return _without_one(caption.split(), [(place, 1) for place in places], rng)


@dataclass(frozen=True)
class DropAttribute(DropByClass):
    """Type I: an attribute is missing (a red ball becomes a ball). See `DropByClass`."""

    name: ClassVar[str] = "drop_attribute"
    word_class: ClassVar[WordClass] = "adjective"


@dataclass(frozen=True)
class DropNoun(DropByClass):
    """Type I: a noun is missing. See `DropByClass`."""

    name: ClassVar[str] = "drop_noun"
    word_class: ClassVar[WordClass] = "noun"


_Phrase = tuple[int, int, Sequence[str]]
"""Place of a phrase's first word, its number of words, and the phrases that contradict it."""


def _numbers(words: Sequence[str]) -> list[_Phrase]:
    """Numbers from one to twelve, in words or digits."""
    return [
        (place, 1, [other for other in form if other != word])
        for place, word in enumerate(words)
        for form in (_NUMBERS, _DIGITS)
        if word in form
    ]


def _relations(words: Sequence[str]) -> list[_Phrase]:
    """Spatial relations; of overlapping ones the longest ("in front of" before "in")."""
    found: list[_Phrase] = []
    place = 0
    while place < len(words):
        lengths = (length for length in (3, 2, 1) if " ".join(words[place : place + length]) in _RELATIONS)
        length = next(lengths, 0)
        if length:
            found.append((place, length, _RELATIONS[" ".join(words[place : place + length])]))
        place += max(1, length)
    return found


_FIND: dict[str, Callable[[Sequence[str]], list[_Phrase]]] = {"numbers": _numbers, "relations": _relations}


@dataclass(frozen=True)
class SwapPhrase(TextOperation):
    """Type I, a detail is wrong: one phrase of a fixed list becomes another.

    Source: ours (docs/method.md#negatives-in-words).
    """

    type: ClassVar[AsymmetryType] = "I"
    phrases: ClassVar[Literal["numbers", "relations"]]

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Replace one phrase; see `TextOperation`."""
        words = caption.split()
        found = _FIND[self.phrases](words)
        if not found:
            return caption
        start, length, others = found[int(rng.integers(len(found)))]
        return " ".join([*words[:start], others[int(rng.integers(len(others)))], *words[start + length :]])


@dataclass(frozen=True)
class SwapNumber(SwapPhrase):
    """Type I: a wrong number from one to twelve, in words or digits like the original. See `SwapPhrase`."""

    name: ClassVar[str] = "swap_number"
    phrases = "numbers"


@dataclass(frozen=True)
class SwapRelation(SwapPhrase):
    """Type I: the opposite spatial relation (above becomes below, in front of becomes behind). See `SwapPhrase`."""

    name: ClassVar[str] = "swap_relation"
    phrases = "relations"


@dataclass(frozen=True)
class DropPhrase(TextOperation):
    """Type I, a detail is missing: one phrase of a fixed list is dropped, unless it is the whole text.

    Source: ours (docs/method.md#negatives-in-words).
    """

    type: ClassVar[AsymmetryType] = "I"
    phrases: ClassVar[Literal["numbers", "relations"]]

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Drop one phrase; see `TextOperation`."""
        words = caption.split()
        return _without_one(words, [(start, length) for start, length, _ in _FIND[self.phrases](words)], rng)


@dataclass(frozen=True)
class DropNumber(DropPhrase):
    """Type I: a number is missing. See `DropPhrase`."""

    name: ClassVar[str] = "drop_number"
    phrases = "numbers"


@dataclass(frozen=True)
class DropRelation(DropPhrase):
    """Type I: a relation is missing (a dog in front of a house becomes a dog a house). See `DropPhrase`."""

    name: ClassVar[str] = "drop_relation"
    phrases = "relations"


@dataclass(frozen=True)
class SimilarCaption(TextOperation):
    """Type I, details are wrong: one of the five captions of other images with the highest word overlap.

    Source: ours (docs/method.md#negatives-in-words): a hard negative written by a person.

    Raises:
        ValueError: When called without the corpus of the training captions.
    """

    name: ClassVar[str] = "similar_caption"
    type: ClassVar[AsymmetryType] = "I"
    needs_corpus: ClassVar[bool] = True

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Choose a caption of another image; see `TextOperation`."""
        corpus = context.corpus_for(self.name)
        found = corpus.similar(caption, context.image, _SIMILAR_CAPTIONS + len(context.siblings))
        others = [text for text in found if text not in context.siblings][:_SIMILAR_CAPTIONS]
        return others[rng.integers(len(others))] if others else caption


def _places(caption: str, kind: WordClass, tagger: str | None, wordnet: str | None) -> list[int]:
    """Places of the words of a class."""
    return [place for place, found in enumerate(word_classes(caption, tagger, wordnet)) if found == kind]


def _without_one(words: list[str], spans: Sequence[tuple[int, int]], rng: np.random.Generator) -> str:
    """The words without one of the spans (first place, length), drawn from those that are not the whole text."""
    droppable = [span for span in spans if span[1] < len(words)]
    if droppable:
        start, length = droppable[int(rng.integers(len(droppable)))]
        words = words[:start] + words[start + length :]
    return " ".join(words)
