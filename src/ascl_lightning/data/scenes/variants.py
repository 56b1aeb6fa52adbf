"""Exact samples of the three types of asymmetry (docs/method.md#information-asymmetry), from parsed captions."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ascl_lightning.data.scenes.captions import SceneCaption
from ascl_lightning.data.scenes.facts import Mention, Sentence
from ascl_lightning.data.scenes.truth import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TONES,
    SceneTruth,
)

_ATTRIBUTES = ("shape", "colour", "size", "place")
DETAILS = (*_ATTRIBUTES, "relation", "background", "count")
"""Kinds of details that can be wrong."""
_VOCABULARIES: Mapping[str, tuple[Collection[str], ...]] = MappingProxyType(
    {
        "shape": (SHAPES,),
        "colour": (COLOURS,),
        "size": (SIZES,),
        "relation": (RELATIONS,),
        "background": (BACKGROUNDS, TONES),
    }
)
"""Words that can replace each other."""


def says_less(caption: SceneCaption, rng: np.random.Generator) -> SceneCaption:
    """Type III: drops one fact or attribute, or makes it vaguer.

    The result is true wherever `caption` is. "An object" is returned unchanged.
    """
    weaker = [
        _with_sentence(caption, index, sentence)
        for index, of_sentence in enumerate(map(_weaker, caption.sentences))
        for sentence in of_sentence
    ]
    if len(caption.sentences) > 1:
        weaker += [_with_sentence(caption, index) for index in range(len(caption.sentences))]
    return weaker[rng.integers(len(weaker))] if weaker else caption


def says_more(caption: SceneCaption, sibling: SceneCaption) -> SceneCaption:
    """Type II: joins two captions of a scene; the result is true exactly where both are."""
    return SceneCaption(caption.sentences + sibling.sentences)


def detail_wrong(
    caption: SceneCaption, scene: SceneTruth, rng: np.random.Generator, kinds: Collection[str] = DETAILS
) -> SceneCaption:
    """Type I: replaces one detail of a true caption so that it is false of the scene.

    Args:
        caption: A caption that is true of the scene.
        scene: One scene.
        rng: Draws the detail and its replacement.
        kinds: The `DETAILS` that may change.

    Raises:
        ValueError: If `scene` is not one scene, or no single detail makes the caption false ("an object").
    """
    if len(scene) != 1:
        raise ValueError(f"detail_wrong needs one scene, not {len(scene)}")
    changes = [
        [_with_sentence(caption, index, changed) for changed in alternatives]
        for index, sentence in enumerate(caption.sentences)
        for kind, alternatives in _wrong(sentence)
        if kind in kinds
    ]
    for detail in rng.permutation(len(changes)):
        for alternative in rng.permutation(len(changes[detail])):
            changed = changes[detail][alternative]
            if not changed.holds(scene)[0]:
                return changed
    raise ValueError(f"no single detail makes '{caption.text}' false")


def _with_sentence(caption: SceneCaption, index: int, *sentences: Sentence) -> SceneCaption:
    return SceneCaption((*caption.sentences[:index], *sentences, *caption.sentences[index + 1 :]))


def _with_mention(sentence: Sentence, index: int, *mentions: Mention) -> tuple[Mention, ...]:
    return (*sentence.mentions[:index], *mentions, *sentence.mentions[index + 1 :])


def _weaker(sentence: Sentence) -> list[Sentence]:
    """All sentences that say one fact less."""
    changes: list[dict[str, Any]] = []
    for index, mention in enumerate(sentence.mentions):
        changes += [{"mentions": _with_mention(sentence, index, vaguer)} for vaguer in _vaguer(mention)]
    if sentence.relation is None and len(sentence.mentions) > 1:
        changes += [{"mentions": _with_mention(sentence, index)} for index in range(len(sentence.mentions))]
    changes += [{"background": tone} for tone, names in TONES.items() if sentence.background in names]
    changes += [{fact: None} for fact in ("relation", "background", "count") if getattr(sentence, fact) is not None]
    return [weaker for weaker in (_tidied(sentence, change) for change in changes) if weaker != sentence]


def _vaguer(mention: Mention) -> list[Mention]:
    vaguer = [replace(mention, **{name: None}) for name in _ATTRIBUTES if getattr(mention, name) is not None]
    if mention.place is not None:
        column, row = PLACES[mention.place]
        sides = [name for name, thirds in PLACES.items() if thirds in ((column, None), (None, row))]
        vaguer += [replace(mention, place=side) for side in sides if side != mention.place]
    return vaguer


def _tidied(sentence: Sentence, change: dict[str, Any]) -> Sentence:
    """The changed sentence without objects that have no attribute, unless nothing else is left."""
    facts = vars(sentence) | change
    if facts["relation"] is None:
        facts["mentions"] = tuple(mention for mention in facts["mentions"] if not mention.is_bare)
    if not facts["mentions"] and facts["background"] is None and facts["count"] is None:
        facts["mentions"] = (Mention(),)
    return Sentence(**facts)


def _wrong(sentence: Sentence) -> list[tuple[str, list[Sentence]]]:
    """For each detail, its kind and all sentences with another one of the same kind and exactness."""
    wrong = []
    for index, mention in enumerate(sentence.mentions):
        for name in _ATTRIBUTES:
            value = getattr(mention, name)
            others = [replace(mention, **{name: other}) for other in _others(name, value)]
            wrong.append(
                (name, [replace(sentence, mentions=_with_mention(sentence, index, other)) for other in others])
            )
    relations = [replace(sentence, relation=other) for other in _others("relation", sentence.relation)]
    backgrounds = [replace(sentence, background=other) for other in _others("background", sentence.background)]
    wrong += [("relation", relations), ("background", backgrounds)]
    counts = [count for count in COUNTS if count >= len(sentence.mentions) and count != sentence.count]
    wrong.append(("count", [replace(sentence, count=count) for count in counts if sentence.count is not None]))
    return wrong


def _others(name: str, value: str | None) -> list[str]:
    if value is None:
        return []
    if name == "place":
        return [place for place in PLACES if _excludes(PLACES[place], PLACES[value])]
    return [other for words in _VOCABULARIES[name] if value in words for other in words if other != value]


def _excludes(thirds: tuple[int | None, int | None], others: tuple[int | None, int | None]) -> bool:
    """Whether two places of the same exactness share no point."""
    return [third is None for third in thirds] == [other is None for other in others] and thirds != others
