"""Parsed sentences about scenes, and the scenes of which they are true."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float

from ascl_lightning.data.scenes.truth import (
    BACKGROUNDS,
    COLOURS,
    MAX_OBJECTS,
    PLACES,
    RELATION_MARGIN,
    RELATIONS,
    SHAPES,
    SIZES,
    TONES,
    SceneTruth,
)

MAX_MENTIONS = 3
"""Maximum number of objects in a sentence."""


@dataclass(frozen=True)
class Mention:
    """Description of an object in a sentence; None leaves an attribute open.

    Args:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`.
        place: One of `PLACES`.
    """

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None

    @property
    def is_bare(self) -> bool:
        """True if any object fits."""
        return self == Mention()

    def fits(self, scenes: SceneTruth) -> Bool[np.ndarray, "N 4"]:
        """Which objects the description is true of."""
        fitting = scenes.present
        if self.shape is not None:
            fitting = fitting & (scenes.shapes == SHAPES.index(self.shape))
        if self.colour is not None:
            fitting = fitting & (scenes.colours == COLOURS.index(self.colour))
        if self.size is not None:
            fitting = fitting & (scenes.sizes == SIZES.index(self.size))
        if self.place is not None:
            for axis, third in enumerate(PLACES[self.place]):
                if third is not None:
                    fitting = fitting & (scenes.thirds[..., axis] == third)
        return fitting


@dataclass(frozen=True)
class Sentence:
    """A conjunction of facts about one scene.

    Args:
        mentions: Distinct objects: "a circle and a red thing" needs two.
        relation: One of `RELATIONS`, from the first of two mentioned objects to the second.
        background: One of `BACKGROUNDS` or `TONES`.
        count: Number of objects of the scene.
        wording: Chooses the wording; does not change the meaning.

    Raises:
        ValueError: If there is no fact, more than `MAX_MENTIONS` mentions, or a relation without exactly two.
    """

    mentions: tuple[Mention, ...] = ()
    relation: str | None = None
    background: str | None = None
    count: int | None = None
    wording: int = 0

    def __post_init__(self) -> None:
        if not self.mentions and self.background is None and self.count is None:
            raise ValueError("a sentence must claim something")
        if len(self.mentions) > MAX_MENTIONS:
            raise ValueError(f"{len(self.mentions)} objects in one sentence; at most {MAX_MENTIONS} can be said")
        if self.relation is not None and len(self.mentions) != 2:
            raise ValueError(f"'{self.relation}' relates two objects, and {len(self.mentions)} are mentioned")

    def holds(self, scenes: SceneTruth) -> Bool[np.ndarray, " N"]:
        """The scenes of which the sentence is true."""
        true = np.ones(len(scenes), dtype=bool)
        if self.count is not None:
            true &= scenes.counts == self.count
        if self.background is not None:
            names = TONES.get(self.background, (self.background,))
            true &= np.isin(scenes.backgrounds, [BACKGROUNDS.index(name) for name in names])
        if self.mentions:
            true &= self._objects_found(scenes)
        return true

    def _objects_found(self, scenes: SceneTruth) -> Bool[np.ndarray, " N"]:
        fitting = [mention.fits(scenes) for mention in self.mentions]
        found = np.zeros(len(scenes), dtype=bool)
        for slots in permutations(range(MAX_OBJECTS), len(fitting)):
            these = fitting[0][:, slots[0]]
            for fits, slot in zip(fitting[1:], slots[1:], strict=True):
                these = these & fits[:, slot]
            if self.relation is not None:
                offsets = scenes.centres[:, slots[1]] - scenes.centres[:, slots[0]]
                these = these & relation_holds(self.relation, *offsets.T)
            found |= these
        return found


def relation_holds(
    relation: str, right: Float[np.ndarray, " N"] | float, down: Float[np.ndarray, " N"] | float
) -> Bool[np.ndarray, " N"] | bool:
    """Whether a relation clearly holds between two objects.

    Args:
        relation: One of `RELATIONS`.
        right: Offset of the second object's centre to the right, as a share of the picture's side, (N,) or a number.
        down: Its offset downwards.
    """
    axis, sign = RELATIONS[relation]
    return sign * (right, down)[axis] > RELATION_MARGIN
