"""Captions of generated scenes: parsed sentences and their English in lower case, with several wordings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool

from ascl_lightning.data.scenes.facts import Mention, Sentence
from ascl_lightning.data.scenes.truth import SceneTruth

_TOPICS = ("form", "opening", "size", "noun", "place", "background", "count", "order")
WORDINGS = 16 ** len(_TOPICS)
"""Number of values of `Sentence.wording`."""

_NOUNS = ("object", "thing")
_SIZE_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType({"small": ("small", "little"), "large": ("large", "big")})
_COUNT_WORDS: Mapping[int, str] = MappingProxyType({2: "two", 3: "three", 4: "four"})
_PLACE_PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "left": ("on the left", "at the left"),
        "right": ("on the right", "at the right"),
        "top": ("at the top", "near the top"),
        "bottom": ("at the bottom", "near the bottom"),
        "middle": ("in the middle", "in the centre"),
    }
    | {
        f"{row} {column}": (f"at the {row} {column}", f"in the {row} {column} corner")
        for row in ("top", "bottom")
        for column in ("left", "right")
    }
)
_RELATION_PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "left of": ("to the left of", "left of"),
        "right of": ("to the right of", "right of"),
        "above": ("above", "over"),
        "below": ("below", "under", "beneath"),
    }
)
_TRAILING_RELATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "left of": ("to its left", "on its left"),
        "right of": ("to its right", "on its right"),
        "above": ("above it",),
        "below": ("below it",),
    }
)

# {0} is said first; some forms are preceded by an opening such as "there is"
_LISTS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        1: ("{0}",),
        2: ("{0} and {1}", "{0} with {1}", "{0} together with {1}", "{0} along with {1}", "{0} as well as {1}"),
        3: ("{0}, {1} and {2}", "{0} and {1} with {2}", "{0} with {1} and {2}", "{0}, {1} as well as {2}"),
    }
)
_OPENINGS = ("{}", "there is {}", "{}", "we see {}", "{}", "here is {}", "{}", "you can see {}")
_RELATED = ("{0} {by} {1}", "{0} is {by} {1}", "there is {0} {by} {1}", "we see {0} {by} {1}")
_RELATED_INVERTED = ("{by} {0} is {1}", "{by} {0} there is {1}")
_RELATED_BACKWARDS = (*_RELATED_INVERTED, "{0} with {1} {its}", "{0} has {1} {its}")
_ON_BACKGROUND = ("on a {} background", "against a {} background")
_AMONG = ("among {} objects", "in a scene of {} objects")


@dataclass(frozen=True)
class SceneCaption:
    """A caption as parsed facts. Two joined captions are two sentences, which may describe the same objects.

    Args:
        sentences: At least one.
    """

    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """The caption in English."""
        return ". ".join(_say(sentence) for sentence in self.sentences)

    def holds(self, scenes: SceneTruth) -> Bool[np.ndarray, " N"]:
        """The scenes of which the caption is true."""
        return np.logical_and.reduce([sentence.holds(scenes) for sentence in self.sentences])


def _say(sentence: Sentence) -> str:
    if not sentence.mentions:
        return _say_setting(sentence)
    said = [_say_objects(sentence)]
    if sentence.count is not None:
        said.append(_pick("count", _AMONG, sentence).format(_COUNT_WORDS[sentence.count]))
    if sentence.background is not None:
        said.append(_pick("background", _ON_BACKGROUND, sentence).format(sentence.background))
    if _pick("order", ("setting first", "objects first"), sentence) == "setting first" and not _is_inverted(sentence):
        said.insert(0, said.pop())
    return " ".join(said)


def _is_inverted(sentence: Sentence) -> bool:
    """Whether it starts with a relation, before which nothing can be added."""
    return sentence.relation is not None and _relation_form(sentence) in _RELATED_INVERTED


def _relation_form(sentence: Sentence) -> str:
    return _pick("form", _RELATED + _RELATED_BACKWARDS, sentence)


def _pick(topic: str, phrases: Sequence[str], sentence: Sentence) -> str:
    """Each topic uses its own four bits of the wording, so a changed fact changes only its own words."""
    return phrases[(sentence.wording >> 4 * _TOPICS.index(topic)) % 16 % len(phrases)]


def _say_setting(sentence: Sentence) -> str:
    background = f"a {sentence.background} background"
    if sentence.count is None:
        return background
    objects = f"{_COUNT_WORDS[sentence.count]} objects"
    return objects if sentence.background is None else f"{objects} on {background}"


def _say_objects(sentence: Sentence) -> str:
    if sentence.relation is None:
        # objects with a place first, as a place at the end would seem to apply to all
        phrases = _noun_phrases(sorted(sentence.mentions, key=lambda mention: mention.place is None), sentence)
        said = _pick("form", _LISTS[len(phrases)], sentence).format(*phrases)
        return _pick("opening", _OPENINGS, sentence).format(said)
    form = _relation_form(sentence)
    backwards = form in _RELATED_BACKWARDS
    phrases = _noun_phrases(sentence.mentions[::-1] if backwards else sentence.mentions, sentence)
    by = _pick("place", _RELATION_PHRASES[sentence.relation], sentence)
    its = _pick("place", _TRAILING_RELATIONS[sentence.relation], sentence)
    return form.format(*phrases, by=by, its=its)


def _noun_phrases(mentions: Sequence[Mention], sentence: Sentence) -> list[str]:
    """Each mention with its article ("another" for a repeated one) and place."""
    phrases: list[str] = []
    said: set[str] = set()
    for mention in mentions:
        size = mention.size and _pick("size", _SIZE_WORDS[mention.size], sentence)
        noun = mention.shape or _pick("noun", _NOUNS, sentence)
        described = " ".join(word for word in (size, mention.colour, noun) if word)
        article = "another" if described in said else "an" if described[0] in "aeiou" else "a"
        said.add(described)
        place = "" if mention.place is None else " " + _pick("place", _PLACE_PHRASES[mention.place], sentence)
        phrases.append(f"{article} {described}{place}")
    return phrases
