"""Samples of the three types of information asymmetry, made at word level (AsCL, docs/method.md#information-asymmetry).

An operation makes a text out of a caption; the sampler draws operations and keeps T- different from T. Every draw is
keyed by (seed, epoch, index), so that any number of ranks and workers, and a resumed run, see the same texts.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar, Literal

import numpy as np

from ascl_lightning.data.augment.caption_corpus import CaptionCorpus
from ascl_lightning.data.text import Vocabulary, clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import Series, keyed_rng

AsymmetryType = Literal["I", "II", "III", "paraphrase"]
"""How a made sample differs; a paraphrase says the same in other words."""

MAX_TRIES = 20
"""Draws of one operation before it counts as unable to change a text. A shuffle that can change a text does so at least
every second time, so it fails wrongly less than once in a million."""


@dataclass(frozen=True)
class TextContext:
    """What operations may know beside the caption itself.

    Args:
        siblings: All captions of the caption's image, itself included.
        vocabulary: Words mined from the training captions alone.
        corpus: The training captions by their words.
        image: Row of the caption's image in the corpus.

    Raises:
        ValueError: If `siblings` is empty.
    """

    siblings: tuple[str, ...]
    vocabulary: Vocabulary | None = None
    corpus: CaptionCorpus | None = None
    image: int | None = None

    def __post_init__(self) -> None:
        if not self.siblings:
            raise ValueError("siblings must hold at least the caption itself")


@dataclass(frozen=True)
class TextOperation(ABC):
    """Makes a text that carries other information than its caption.

    A subclass is a frozen dataclass that sets `name` and `type` and says in its docstring where it comes from. It keeps
    no state between calls and draws from the given generator alone.

    Args:
        probability: Share among the operations of its list; the shares need not sum to one.

    Raises:
        UserError: If `probability` is not a positive number.
    """

    name: ClassVar[str]
    type: ClassVar[AsymmetryType]
    needs_corpus: ClassVar[bool] = False
    """Whether it looks for captions of other images."""
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.probability < math.inf:
            raise UserError(
                f"the probability of the text operation {self.name!r} is {self.probability}; "
                f"give a positive number, or take the operation out of its list"
            )

    @abstractmethod
    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Make a text.

        Args:
            caption: Cleaned words, separated by single spaces.
            context: The image's captions, cleaned likewise, and the vocabulary.
            rng: Where all draws come from.

        Returns:
            The new text; the caption itself where the operation cannot change it.
        """


@dataclass(frozen=True)
class JoinCaptions(TextOperation):
    """Type II, the text says more: two captions of the image, drawn with replacement and joined by a space.

    Source: AsCL, the first author's code (docs/method.md#positives-types-ii-and-iii). The caption itself need not be
    one of the two.
    """

    name: ClassVar[str] = "join_captions"
    type: ClassVar[AsymmetryType] = "II"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Join two captions of the image; see `TextOperation`."""
        first, second = rng.integers(len(context.siblings), size=2)
        return f"{context.siblings[first]} {context.siblings[second]}"


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
        percent: Share of the words that stay, rounded down.

    Example:
        >>> first_words("a black dog runs", 75), first_words("dogs", 25)
        ('a black dog', 'dogs')
    """
    words = caption.split()
    return " ".join(words[: max(1, len(words) * percent // 100)])


@dataclass(frozen=True)
class ShuffleWords(TextOperation):
    """Type I, the order is wrong: the words in random order.

    Source: AsCL shuffles word features; ours shuffles the words before the text encoder, where order is seen
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
        if len(words) < 2:
            return caption
        del words[rng.integers(len(words))]
        return " ".join(words)


@dataclass(frozen=True)
class ReplaceWord(TextOperation):
    """Type I, a detail is wrong: one random word replaced by another from the vocabulary of the training captions.

    Source: ours (docs/method.md#negatives-in-words), so that the encoder meets a wrong word.

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
class MadeText:
    """A text that an operation made of another one: T+, T- or (T+)-.

    Args:
        text: Cleaned words. A T+ is up to twice as long as a caption: the tokenizer cuts it.
        operation: Name of the operation. None: no operation could change the original, which `text` repeats; such a
            text counts for nothing.
    """

    text: str
    operation: str | None

    @property
    def valid(self) -> bool:
        """Whether it counts."""
        return self.operation is not None


@dataclass(frozen=True)
class AsymmetrySample:
    """A caption with the texts made from it."""

    text: str
    """T, the cleaned caption."""
    positive: MadeText | None = None
    """T+, of type II or III; None without positive operations."""
    negative: MadeText | None = None
    """T-, made from T; None without negative operations."""
    positive_negative: MadeText | None = None
    """(T+)-, made from T+; None if either list of operations is empty."""


class AsymmetrySampler:
    """Draws T+, T- and (T+)- for a caption (docs/method.md#information-asymmetry).

    One T+ a caption and step, by an operation drawn by its probability. A T- that equals its T word for word is drawn
    again from the same operation, which keeps the operations' shares, and then from the others; only where no operation
    makes it differ in `MAX_TRIES` draws it is marked invalid.

    Args:
        positives: Operations that make T+; none for no T+.
        negatives: Operations that make T- and (T+)-; none for neither.

    Raises:
        UserError: If a positive operation makes texts of type I, which are wrong, or a negative one makes any others,
            which are true.
    """

    def __init__(self, positives: Sequence[TextOperation], negatives: Sequence[TextOperation]) -> None:
        for operation in positives:
            if operation.type == "I":
                raise UserError(
                    f"positives: {type(operation).__name__} makes wrong texts (type I): move it to negatives"
                )
        for operation in negatives:
            if operation.type != "I":
                raise UserError(
                    f"negatives: {type(operation).__name__} makes true texts (type {operation.type}): move it to "
                    f"positives"
                )
        self.positives = tuple(positives)
        self.negatives = tuple(negatives)

    def __bool__(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.positives or self.negatives)

    def sample(self, caption: str, context: TextContext, *, seed: int, epoch: int, index: int) -> AsymmetrySample:
        """Draw the texts of one caption; the same keys give the same texts whatever was drawn before.

        T+ draws from a stream of its own, so that negative operations in the configuration do not change it.

        Args:
            caption: The caption as it was read; it is cleaned here.
            context: The captions of its image as they were read, and the vocabulary.
            seed: The run's seed, not negative.
            epoch: The epoch, not negative.
            index: Row of the caption in its split, not negative.
        """
        text = clean_caption(caption)
        if not self:
            return AsymmetrySample(text)
        cleaned = tuple(filter(None, map(clean_caption, context.siblings)))
        context = replace(context, siblings=cleaned or (text,))
        streams = (Series.POSITIVE, Series.NEGATIVE, Series.POSITIVE_NEGATIVE)
        rng, rng_negative, rng_both = (keyed_rng(seed, epoch, index, stream) for stream in streams)
        positive = self._positive(text, context, rng)
        negative = self._negative(text, context, rng_negative)
        both = None if positive is None else self._negative(positive.text, context, rng_both)
        return AsymmetrySample(text, positive, negative, both)

    def _positive(self, text: str, context: TextContext, rng: np.random.Generator) -> MadeText | None:
        """T+; None without operations."""
        if not self.positives:
            return None
        operation = _choose(self.positives, rng)
        return MadeText(_apply(operation, text, context, rng), operation.name)

    def _negative(self, text: str, context: TextContext, rng: np.random.Generator) -> MadeText | None:
        """T- of a text; None without operations."""
        remaining = list(self.negatives)
        while remaining:
            operation = _choose(remaining, rng)
            changed = draw_changed(operation, text, context, rng)
            if changed is not None:
                return MadeText(changed, operation.name)
            remaining.remove(operation)
        return MadeText(text, None) if self.negatives else None


def draw_changed(operation: TextOperation, text: str, context: TextContext, rng: np.random.Generator) -> str | None:
    """A text of the operation that differs from the given one; None where `MAX_TRIES` draws give none."""
    for _ in range(MAX_TRIES):
        candidate = _apply(operation, text, context, rng)
        if candidate != text:
            return candidate
    return None


def _choose(operations: Sequence[TextOperation], rng: np.random.Generator) -> TextOperation:
    """Draw an operation by its probability."""
    bounds = list(accumulate(operation.probability for operation in operations))
    return operations[bisect_right(bounds, rng.random() * bounds[-1], hi=len(bounds) - 1)]


def _apply(operation: TextOperation, text: str, context: TextContext, rng: np.random.Generator) -> str:
    """The operation's text, cleaned but not cut (the tokenizer cuts and counts); the text itself where none is left."""
    return clean_caption(operation(text, context, rng), max_words=None) or text
