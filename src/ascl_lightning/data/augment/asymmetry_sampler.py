"""Which T+, T- and (T+)- a caption gets in an epoch (AsCL, docs/method.md#information-asymmetry).

Each draw is keyed by (seed, epoch, index), so the texts depend neither on the numbers of ranks and workers nor on
whether the run was resumed.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from ascl_lightning.data.augment.operation import TextContext, TextOperation
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import Series, keyed_rng

MAX_TRIES = 20
"""Draws after which an operation counts as unable to change a text. A shuffle that can change a text does so with
probability 1/2 or more, so fewer than one in a million is given up wrongly."""


@dataclass(frozen=True)
class MadeText:
    """A text that an operation made of another one: T+, T- or (T+)-.

    Args:
        text: Cleaned words. A T+ is up to twice as long as a caption: the tokenizer cuts it.
        operation: Name of the operation; None if no operation could change the original, so that `text` equals it.
    """

    text: str
    operation: str | None

    @property
    def valid(self) -> bool:
        """Whether the loss may use it."""
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

    A caption gets one T+ per step, from an operation drawn by its probability. A T- that equals its T is drawn again
    from the same operation, so that the operations keep their shares, and after `MAX_TRIES` draws from another one; if
    no operation can change the text, T- is marked invalid.

    Args:
        positives: Operations that make T+; empty for no T+.
        negatives: Operations that make T- and (T+)-; empty for neither.

    Raises:
        UserError: If a positive operation makes false texts (type I), or a negative one makes true texts.
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
        """Draws the texts of one caption; they depend only on the arguments, not on earlier draws.

        T+, T- and (T+)- have separate random streams, so that negative operations do not change T+.

        Args:
            caption: The raw caption.
            context: The raw captions of its image, and the vocabulary.
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
    """A text that the operation makes and that differs from the given one; None after `MAX_TRIES` failed draws."""
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
    """The operation's text, cleaned but not truncated (the tokenizer does that); the text itself if nothing is left."""
    return clean_caption(operation(text, context, rng), max_words=None) or text
