"""Variants of real captions for the asymmetry report card; they depend on the captions and a seed, not on a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ascl_lightning.data.augment.asymmetry_sampler import draw_changed
from ascl_lightning.data.augment.negatives import (
    DropAttribute,
    DropNoun,
    DropNumber,
    DropRelation,
    ShuffleWords,
    SwapAttribute,
    SwapNoun,
    SwapNumber,
    SwapRelation,
)
from ascl_lightning.data.augment.operation import TextContext, TextOperation
from ascl_lightning.data.augment.positives import SwapWords, first_words
from ascl_lightning.data.text import Vocabulary, clean_caption
from ascl_lightning.data.variants.ladder import Ladder, Variants, VariantStep, VariantType, by_level, draws_of
from ascl_lightning.errors import UserError

KEPT = (75, 50, 25)
"""Percentages of words that type III keeps."""
MOST_APPENDED = 4
"""Maximum number of captions that type II appends."""
EDITED = "edits"
"""Unit of the levels of type I: 0 is the caption, 1 one edit."""
WORD_ORDER = ("swap_words", "shuffle_words")
"""Operations for which no source knows if the result is still true."""


@dataclass(frozen=True)
class _Caption:
    """A caption with the data that its variants are made from."""

    row: int
    image: int
    text: str
    siblings: tuple[str, ...]
    """The image's other captions."""


_Make = Callable[[_Caption, np.random.Generator], Sequence[str]]
"""Makes the texts of a caption at all levels; fewer if it has too few siblings."""


@dataclass(frozen=True)
class _Recipe:
    type: VariantType
    operation: str
    unit: str
    unchanged: float
    levels: Sequence[int]
    make: _Make


def make_variants(
    captions: Sequence[tuple[str, ...]],
    text_rows: Sequence[int],
    seed: int,
    *,
    exact: Sequence[Ladder[VariantStep]] = (),
    wordnet: str | None = None,
) -> Variants:
    """Variants of some captions of a split, by every operation of the report card.

    Draws are keyed by the seed, the operation and the row of the caption, so a caption's variants do not depend on
    the other captions. Replacement words come from the captions of the split.

    Args:
        captions: All raw captions of each image.
        text_rows: Rows of the captions to vary, counted over all images.
        seed: Seed of all draws.
        exact: Ladders for these captions from a source that knows the truth; they replace all but `WORD_ORDER`.
        wordnet: Folder of NLTK data with WordNet; None searches NLTK's own folders. Without WordNet, operations
            that need it are not run.
    """
    split = [tuple(map(clean_caption, of_image)) for of_image in captions]
    chosen = _chosen(split, text_rows)
    ladders, not_run = list(exact), {}
    for recipe in _recipes(split, wordnet):
        if exact and recipe.operation not in WORD_ORDER:
            continue
        try:
            ladders.append(_ladder(recipe, chosen, seed))
        except UserError as error:
            not_run[recipe.operation] = str(error)
    return Variants.of(seed, text_rows, [caption.text for caption in chosen], ladders, not_run)


def _chosen(split: Sequence[tuple[str, ...]], text_rows: Sequence[int]) -> list[_Caption]:
    ends = np.array(list(accumulate(map(len, split))))
    images = np.searchsorted(ends, text_rows, side="right").tolist()
    chosen = []
    for row, image in zip(text_rows, images, strict=True):
        place = row - int(ends[image]) + len(split[image])
        siblings = split[image][:place] + split[image][place + 1 :]
        chosen.append(_Caption(row, image, split[image][place], siblings))
    return chosen


def _ladder(recipe: _Recipe, chosen: Sequence[_Caption], seed: int) -> Ladder[VariantStep]:
    made = [recipe.make(of, draws_of(seed, recipe.operation, of.row)) for of in chosen]
    levels = zip(recipe.levels, by_level(made, [of.text for of in chosen]), strict=False)
    steps = [VariantStep(float(level), tuple(texts)) for level, texts in levels]
    return Ladder(recipe.type, recipe.operation, recipe.unit, recipe.unchanged, tuple(steps))


def _recipes(split: Sequence[tuple[str, ...]], wordnet: str | None) -> list[_Recipe]:
    appended = range(1, MOST_APPENDED + 1)
    vocabulary = Vocabulary.mine((text for of_image in split for text in of_image), capacity=None)
    edits: list[TextOperation] = [
        SwapWords(),
        ShuffleWords(),
        *(DropAttribute(wordnet=wordnet), DropNoun(wordnet=wordnet), DropNumber(), DropRelation()),
        SwapAttribute(candidates="vocabulary", wordnet=wordnet),
        SwapNoun(candidates="vocabulary", wordnet=wordnet),
        *(SwapNumber(), SwapRelation()),
    ]
    return [
        _Recipe("III", "keep_words", "% of words kept", 100.0, KEPT, _shortened),
        _Recipe("II", "append_siblings", "captions appended", 0.0, appended, _with_siblings),
        _Recipe("II", "append_others", "captions appended", 0.0, appended, _with_others(split)),
        *(_Recipe("I", edit.name, EDITED, 0.0, (1,), _edited(edit, vocabulary)) for edit in edits),
    ]


def _shortened(caption: _Caption, _: np.random.Generator) -> list[str]:
    return [first_words(caption.text, percent) for percent in KEPT]


def _with_siblings(caption: _Caption, rng: np.random.Generator) -> list[str]:
    order = rng.permutation(len(caption.siblings))[:MOST_APPENDED]
    return appended_one_by_one(caption.text, [caption.siblings[place] for place in order])


def _with_others(split: Sequence[tuple[str, ...]]) -> _Make:
    """Appends one caption each of other images."""
    images = np.array([image for image, of_image in enumerate(split) if of_image])

    def make(caption: _Caption, rng: np.random.Generator) -> list[str]:
        others = images[images != caption.image]
        drawn = rng.choice(others, min(MOST_APPENDED, len(others)), replace=False).tolist()
        return appended_one_by_one(caption.text, [split[image][rng.integers(len(split[image]))] for image in drawn])

    return make


def appended_one_by_one(text: str, others: Sequence[str]) -> list[str]:
    """A text followed by one, two and more others.

    Example:
        >>> appended_one_by_one("a dog", ["it runs", "a ball"])
        ['a dog it runs', 'a dog it runs a ball']
    """
    return list(accumulate(others, lambda longer, other: f"{longer} {other}", initial=text))[1:]


def _edited(operation: TextOperation, vocabulary: Vocabulary) -> _Make:
    def make(caption: _Caption, rng: np.random.Generator) -> list[str]:
        context = TextContext((caption.text, *caption.siblings), vocabulary)
        return [draw_changed(operation, caption.text, context, rng) or caption.text]

    return make
