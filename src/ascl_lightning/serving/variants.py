"""Changed queries: what a search is asked beside a query to show how sensitive it is to information asymmetry."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from ascl_lightning.data.augment import (
    AppendOtherCaption,
    FirstHalf,
    ReplaceWord,
    ShuffleWords,
    SwapAttribute,
    SwapNoun,
    SwapNumber,
    SwapRelation,
    SwapVerb,
    TextContext,
    TextOperation,
)
from ascl_lightning.data.augment.caption_corpus import CaptionCorpus
from ascl_lightning.data.augment.wordnet import usual_class
from ascl_lightning.data.text import Tokenizer, WordTokenizer, clean_caption
from ascl_lightning.errors import UserError

Kind = Literal["dropped", "changed", "added", "own"]
MAX_DROPPED = 6
_CHANGES = (SwapNumber(), SwapRelation())
_WORDNET_CHANGES = (SwapAttribute(), SwapNoun(), SwapVerb())
_SHORT = 2
"""Length of words that are not dropped alone, such as "a" and "in", where there are longer ones."""


@dataclass(frozen=True)
class Variant:
    """A changed query.

    Args:
        kind: Whether it says less (type III), something else (type I), or more (type II), or is the user's own.
        text: The cleaned query.
    """

    kind: Kind
    text: str


def variants(text: str, tokenizer: Tokenizer, captions: Sequence[str] = (), own: str | None = None) -> list[Variant]:
    """Changed versions of a query, the same ones for the same arguments.

    Words are dropped one at a time, and the second half; a number, a relation, an attribute, a noun or a verb becomes
    another one (the last three with WordNet alone), or else any word, and the words are shuffled; a caption of another
    picture, or else a word of the vocabulary, is appended.

    Args:
        text: The query.
        tokenizer: Tokenizer of the model, for its vocabulary.
        captions: Captions of pictures, of which one is appended.
        own: The user's own version.
    """
    cleaned = clean_caption(text)
    made = [] if own is None else [Variant("own", clean_caption(own))]
    rng = np.random.default_rng(zlib.crc32(cleaned.encode()))
    vocabulary = tokenizer.vocabulary if isinstance(tokenizer, WordTokenizer) else None
    others = CaptionCorpus([(caption,) for caption in captions]) if captions else None
    context = TextContext((cleaned,), vocabulary, others)
    made += [Variant("dropped", shorter) for shorter in _dropped(cleaned, context, rng)]
    made += [Variant("changed", changed) for changed in _changed(cleaned, context, rng)]
    made += [Variant("added", longer) for longer in _added(cleaned, context, rng)]
    distinct = {variant.text: variant for variant in reversed(made) if variant.text not in ("", cleaned)}
    return list(reversed(distinct.values()))


@cache
def has_wordnet() -> bool:
    """Whether WordNet is installed. The first call may take seconds, as NLTK is imported."""
    try:
        usual_class("red", None)
    except UserError:
        return False
    return True


def _dropped(text: str, context: TextContext, rng: np.random.Generator) -> Iterator[str]:
    words = text.split()
    if len(words) < 2:
        return
    long = [place for place, word in enumerate(words) if len(word) > _SHORT]
    for place in (long or range(len(words)))[:MAX_DROPPED]:
        yield " ".join(words[:place] + words[place + 1 :])
    yield FirstHalf()(text, context, rng)


def _changed(text: str, context: TextContext, rng: np.random.Generator) -> Iterator[str]:
    operations: tuple[TextOperation, ...] = (*_CHANGES, *(_WORDNET_CHANGES if has_wordnet() else ()))
    found = [changed for operation in operations if (changed := operation(text, context, rng)) != text]
    if not found and context.vocabulary is not None:
        found = [ReplaceWord()(text, context, rng)]
    yield from found
    yield ShuffleWords()(text, context, rng)


def _added(text: str, context: TextContext, rng: np.random.Generator) -> Iterator[str]:
    if context.corpus is not None:
        yield AppendOtherCaption()(text, context, rng)
    elif context.vocabulary is not None and (word := context.vocabulary.draw(rng, avoid="")):
        yield f"{text} and {word}"
