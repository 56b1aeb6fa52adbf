"""Exact variants of the captions of scenes for the asymmetry report card: true or false by construction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType

import numpy as np

from ascl_lightning.data.scenes.captions import SceneCaption
from ascl_lightning.data.scenes.truth import SceneTruth
from ascl_lightning.data.scenes.variants import DETAILS, detail_wrong, says_less, says_more
from ascl_lightning.data.text import clean_caption
from ascl_lightning.data.variants.ladder import Ladder, VariantStep, VariantType, by_level, draws_of

_LEFT_OUT = 3
"""Maximum number of facts that type III removes."""
_APPENDED = 4
"""Maximum number of captions that type II appends."""

_WRONG: Mapping[str, str] = MappingProxyType({f"wrong_{detail}": detail for detail in DETAILS})
_KINDS: Mapping[str, tuple[VariantType, str]] = MappingProxyType(
    {
        "leave_out_facts": ("III", "facts left out"),
        "append_siblings": ("II", "captions appended"),
        "append_others": ("II", "captions appended"),
        **dict.fromkeys(_WRONG, ("I", "edits")),
    }
)


@dataclass(frozen=True)
class _Scenes:
    """The scenes of a split with their captions."""

    captions: Sequence[tuple[SceneCaption, ...]]
    truth: SceneTruth

    def variants(self, operation: str, row: int, place: int, rng: np.random.Generator) -> list[SceneCaption]:
        """A caption at all levels of an operation; unchanged if the operation cannot change it."""
        caption = self.captions[row][place]
        if operation == "leave_out_facts":
            less = accumulate(range(_LEFT_OUT), lambda told, _: says_less(told, rng), initial=caption)
            return list(less)[1:]
        if operation == "append_siblings":
            order = rng.permutation(len(self.captions[row]))
            siblings = [self.captions[row][other] for other in order if other != place]
            return _appended(caption, siblings[:_APPENDED])
        if operation == "append_others":
            return _appended(caption, self._false_of(row, rng))
        scene = self.truth.take([row])
        try:
            return [detail_wrong(caption, scene, rng, [_WRONG[operation]])]
        except ValueError:  # it has no detail of that kind
            return [caption]

    def _false_of(self, row: int, rng: np.random.Generator) -> list[SceneCaption]:
        """Captions of other scenes that are false of this one, each of another scene."""
        scene, found = self.truth.take([row]), []
        for other in rng.permutation(len(self.captions)):
            drawn = self.captions[other][rng.integers(len(self.captions[other]))]
            if not drawn.holds(scene)[0]:
                found.append(drawn)
            if len(found) == _APPENDED:
                break
        return found


def _appended(caption: SceneCaption, others: Sequence[SceneCaption]) -> list[SceneCaption]:
    return list(accumulate(others, says_more, initial=caption))[1:]


def claims_of_ladders(
    captions: Sequence[tuple[SceneCaption, ...]], truth: SceneTruth, text_rows: Sequence[int], seed: int
) -> dict[str, list[list[SceneCaption]]]:
    """Parsed variants of captions.

    Args:
        captions: The captions of each scene, the same number for each.
        truth: The scenes.
        text_rows: Rows of the captions to vary, counted over all scenes.
        seed: Keys the draws, with the operation and the row of the caption.

    Returns:
        For each operation and level, one caption per row of `text_rows`.
    """
    scenes, per_scene = _Scenes(captions, truth), len(captions[0])
    unchanged = [captions[row // per_scene][row % per_scene] for row in text_rows]
    claims = {}
    for operation in _KINDS:
        made = [
            scenes.variants(operation, *divmod(row, per_scene), draws_of(seed, operation, row)) for row in text_rows
        ]
        claims[operation] = by_level(made, unchanged)
    return claims


def scene_ladders(
    captions: Sequence[tuple[SceneCaption, ...]], truth: SceneTruth, text_rows: Sequence[int], seed: int
) -> list[Ladder[VariantStep]]:
    """The English of `claims_of_ladders`: facts left out, captions appended, and each kind of detail wrong."""
    ladders = []
    for operation, levels in claims_of_ladders(captions, truth, text_rows, seed).items():
        type_, unit = _KINDS[operation]
        steps = [
            VariantStep(float(level), tuple(clean_caption(claim.text, max_words=None) for claim in at_level))
            for level, at_level in enumerate(levels, start=1)
        ]
        ladders.append(Ladder(type_, operation, unit, 0.0, tuple(steps), exact=True))
    return ladders
