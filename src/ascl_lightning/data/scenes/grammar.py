"""Random captions of a scene; each describes part of it, enough to find it among hundreds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ascl_lightning.data.scenes.captions import WORDINGS, SceneCaption
from ascl_lightning.data.scenes.facts import Mention, Sentence, relation_holds
from ascl_lightning.data.scenes.truth import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TONES,
    SceneObject,
)

LEAST_BITS = 15.0
"""Information at which a caption ends. Eleven bits identify a scene among 500 for a perfect reader; the rest lets a
model that misses a detail still find it."""

_SHARE_OF_ONE, _SHARE_OF_THREE = 0.05, 0.5
"""Shares of captions that mention one object and, if the scene has as many, three; the others mention two."""
_SHARE_OF_RELATIONS = 0.3
"""Share of sentences with two objects that may relate them; the others may give their places."""
_SHARE_OF_VAGUE = 0.15
"""Probability that a corner is named by one of its sides, and a background by its tone."""

# information of each fact, and weight with which it is drawn early
_BITS = {
    "shape": math.log2(len(SHAPES)),
    "colour": math.log2(len(COLOURS)),
    "size": math.log2(len(SIZES)),
    "relation": math.log2(3),
    "count": math.log2(len(COUNTS)),
}
_EAGERNESS = {"shape": 6.0, "colour": 12.0, "relation": 4.0, "place": 3.0, "size": 2.0, "background": 2.0, "count": 0.6}
_AMBIGUITY = {
    mentioned: math.log2(sum(math.perm(count, mentioned) for count in COUNTS) / len(COUNTS)) for mentioned in (1, 2, 3)
}
"""Bits lost because several objects of a scene may be meant."""
_TONE_OF = {name: tone for tone, names in TONES.items() for name in names}
_PLACES_AT = {
    (column, row): sorted(
        (place for place, thirds in PLACES.items() if thirds[0] in (None, column) and thirds[1] in (None, row)),
        key=lambda place: -PLACES[place].count(None),
    )
    for column in range(3)
    for row in range(3)
}
"""Names of the cells of the grid, the most exact one last."""


def draw_captions(
    objects: Sequence[SceneObject], background: str, num_captions: int, rng: np.random.Generator
) -> tuple[SceneCaption, ...]:
    """Draws true captions of one scene, of one sentence each, with distinct texts; fewer are the first ones of more."""
    captions: dict[str, SceneCaption] = {}
    while len(captions) < num_captions:
        caption = SceneCaption((_Draft(objects, background, rng).sentence(),))
        captions.setdefault(caption.text, caption)
    return tuple(captions.values())


class _Draft:
    """Builds a sentence: adds facts in random order until they carry enough information."""

    def __init__(self, objects: Sequence[SceneObject], background: str, rng: np.random.Generator) -> None:
        # drawing single numbers is fastest for few draws
        self._random = rng.random
        self._subjects = sorted(objects, key=lambda _: self._random())[: self._num_mentions(len(objects))]
        self._num_objects = len(objects)
        self._background = background
        self._mentions: list[dict[str, str]] = [{} for _ in self._subjects]
        self._whole: dict[str, Any] = {}
        self._bits = -_AMBIGUITY[len(self._subjects)]

    def sentence(self) -> Sentence:
        """Adds facts until they suffice."""
        for subject, fact in self._facts():
            if self._bits >= LEAST_BITS:
                break
            if fact in ("shape", "colour", "size"):
                self._mentions[subject][fact] = getattr(self._subjects[subject], fact)
                self._bits += _BITS[fact]
            elif fact == "place":
                self._tell_place(subject)
            else:
                self._tell_whole(fact)
        mentions = tuple(Mention(**told) for told in self._mentions)
        return Sentence(mentions, wording=int(self._random() * WORDINGS), **self._whole)

    def _num_mentions(self, num_objects: int) -> int:
        chance = self._random()
        if chance < _SHARE_OF_ONE:
            return 1
        return 3 if num_objects >= 3 and chance > 1 - _SHARE_OF_THREE else 2

    def _facts(self) -> list[tuple[int, str]]:
        """All facts in drawn order: first one of each object, so that none is only "an object"."""
        subjects = range(len(self._subjects))
        first = [(subject, self._choose(("shape", "colour"))) for subject in subjects]
        related = len(subjects) == 2 and self._random() < _SHARE_OF_RELATIONS
        others = [(subject, fact) for subject in subjects for fact in ("shape", "colour", "size")]
        others += [(0, "relation")] if related else [(subject, "place") for subject in subjects]
        others += [(0, "background"), (0, "count")]
        others = [fact for fact in others if fact not in first]
        # Sorting by u^(1/w) draws without replacement with weights w (Efraimidis and Spirakis 2006).
        return first + sorted(others, key=lambda fact: -(self._random() ** (1 / _EAGERNESS[fact[1]])))

    def _tell_place(self, subject: int) -> None:
        *vague, exact = _PLACES_AT[self._subjects[subject].thirds]
        place = self._choose(vague) if vague and self._random() < _SHARE_OF_VAGUE else exact
        self._mentions[subject]["place"] = place
        self._bits += math.log2(3) * sum(third is not None for third in PLACES[place])

    def _tell_whole(self, fact: str) -> None:
        if fact == "relation":
            first, second = self._subjects
            true = [name for name in RELATIONS if relation_holds(name, second.x - first.x, second.y - first.y)]
            self._whole["relation"] = self._choose(true)
            self._bits += _BITS["relation"]
        elif fact == "count":
            self._whole["count"] = self._num_objects
            self._bits += _BITS["count"]
        elif self._random() < _SHARE_OF_VAGUE:
            self._whole["background"] = _TONE_OF[self._background]
            self._bits += math.log2(len(TONES))
        else:
            self._whole["background"] = self._background
            self._bits += math.log2(len(BACKGROUNDS))

    def _choose(self, options: Sequence[str]) -> str:
        return options[int(self._random() * len(options))]
