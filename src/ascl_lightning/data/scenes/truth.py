"""Content of generated scenes: vocabulary, arrays and random draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Int

from ascl_lightning.runtime.draws import keyed_rng

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "beige", "grey", "slate", "brown", "black")
TONES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"light": ("white", "beige", "grey"), "dark": ("slate", "brown", "black")}
)
"""Less specific words for backgrounds."""
COUNTS = (2, 3, 4)
"""Possible numbers of objects in a scene."""
MAX_OBJECTS = max(COUNTS)

OBJECT_RADII = (0.1, 0.145)
"""Half the width of a small and a large object, as shares of the picture's side."""
CELL_CENTRES = (0.17, 0.5, 0.83)
"""Objects are in different cells of a 3 x 3 grid, so that none hides another."""
CELL_JITTER = 0.02
"""Maximum distance from the cell's centre in x and in y, as a share of the side."""
OBJECT_TINT = 13.0
BACKGROUND_TINT = 7.0
"""Maximum deviation of each colour channel of an object or background, in levels of 0 to 255."""

RELATIONS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}
)
"""Axis (x to the right, y down) and sign of each relation, for `RELATION_MARGIN`."""
RELATION_MARGIN = 0.16
"""A relation holds if sign * (second - first) exceeds this share of the side."""

PLACES: Mapping[str, tuple[int | None, int | None]] = MappingProxyType(
    {
        "left": (0, None),
        "right": (2, None),
        "top": (None, 0),
        "bottom": (None, 2),
        "top left": (0, 0),
        "top right": (2, 0),
        "bottom left": (0, 2),
        "bottom right": (2, 2),
        "middle": (1, 1),
    }
)
"""The thirds of the picture (column, row; None is any) that each place means."""
THIRDS = ((0.0, 0.3), (0.4, 0.6), (0.7, 1.0))
"""Ranges in which a centre is clearly in the first, second or last third; the gaps belong to none."""


@dataclass(frozen=True)
class SceneObject:
    """One object in words.

    Args:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`.
        x: Position of its centre from the left, as a share of the picture's side.
        y: Position of its centre from the top.
        thirds: Column and row among the picture's thirds, as in `SceneTruth.thirds`.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    thirds: tuple[int, int]


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """N scenes as arrays, so that a caption can be checked against all of them at once.

    Objects fill the first slots, in the order of painting; empty slots are -1 (centres and tints: 0).

    Args:
        shapes: Index into `SHAPES`.
        colours: Index into `COLOURS`. No two objects of a scene share both shape and colour.
        sizes: Index into `SIZES`.
        centres: x (to the right) and y (down), as shares of the picture's side.
        backgrounds: Index into `BACKGROUNDS`.
        tints: Deviation of the red, green and blue of each object, in levels of 0 to 255.
        background_tints: The same for the background.
    """

    shapes: Int[np.ndarray, "N 4"]
    colours: Int[np.ndarray, "N 4"]
    sizes: Int[np.ndarray, "N 4"]
    centres: Float[np.ndarray, "N 4 2"]
    backgrounds: Int[np.ndarray, " N"]
    tints: Float[np.ndarray, "N 4 3"]
    background_tints: Float[np.ndarray, "N 3"]

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.shapes)

    @cached_property
    def present(self) -> Bool[np.ndarray, "N 4"]:
        """True for slots with an object."""
        return self.shapes >= 0

    @cached_property
    def counts(self) -> Int[np.ndarray, " N"]:
        """Number of objects of each scene."""
        return self.present.sum(axis=1)

    @cached_property
    def thirds(self) -> Int[np.ndarray, "N 4 2"]:
        """Column and row (0, 1, 2) of each object among the picture's thirds; -1 if unclear."""
        clearly = [(self.centres >= low) & (self.centres <= high) for low, high in THIRDS]
        return np.select(clearly, range(3), default=-1)

    def take(self, rows: Sequence[int] | slice) -> "SceneTruth":
        """The scenes of some rows, in that order."""
        return SceneTruth(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def objects(self, row: int) -> list[SceneObject]:
        """The objects of one scene in words."""
        return [
            SceneObject(SHAPES[shape], COLOURS[colour], SIZES[size], x, y, (column, line))
            for shape, colour, size, (x, y), (column, line) in zip(
                self.shapes[row].tolist(),
                self.colours[row].tolist(),
                self.sizes[row].tolist(),
                self.centres[row].tolist(),
                self.thirds[row].tolist(),
                strict=True,
            )
            if shape >= 0
        ]

    def background(self, row: int) -> str:
        """The background of one scene in a word."""
        return BACKGROUNDS[self.backgrounds[row]]


# uniform numbers for each part of a scene
_DRAWS = {
    "count": 1,
    "cells": len(CELL_CENTRES) ** 2,
    "kinds": len(SHAPES) * len(COLOURS),
    "sizes": MAX_OBJECTS,
    "jitter": MAX_OBJECTS * 2,
    "tints": MAX_OBJECTS * 3,
    "background": 1,
    "background_tints": 3,
}


def draw_scenes(num_scenes: int, seed: int, stream: int) -> SceneTruth:
    """Draws scenes; each depends only on `seed`, `stream` (one per split) and its row."""
    num_draws = sum(_DRAWS.values())
    uniform = np.empty((num_scenes, num_draws))
    for row in range(num_scenes):
        uniform[row] = keyed_rng(seed, stream, row).random(num_draws)
    ends = np.cumsum(list(_DRAWS.values()))
    draws = dict(zip(_DRAWS, np.split(uniform, ends[:-1], axis=1), strict=True))

    counts = np.asarray(COUNTS)[_index(draws["count"], len(COUNTS))]
    present = np.arange(MAX_OBJECTS) < counts
    # argsort of random numbers is a permutation; its first four are a draw without replacement
    cells = draws["cells"].argsort(axis=1)[:, :MAX_OBJECTS]
    kinds = draws["kinds"].argsort(axis=1)[:, :MAX_OBJECTS]
    grid = np.asarray(CELL_CENTRES)
    centres = grid[np.stack([cells % len(grid), cells // len(grid)], axis=-1)]
    centres += CELL_JITTER * (2 * draws["jitter"].reshape(centres.shape) - 1)
    tints = OBJECT_TINT * (2 * draws["tints"].reshape(num_scenes, MAX_OBJECTS, 3) - 1)
    return SceneTruth(
        shapes=np.where(present, kinds // len(COLOURS), -1),
        colours=np.where(present, kinds % len(COLOURS), -1),
        sizes=np.where(present, _index(draws["sizes"], len(SIZES)), -1),
        centres=np.where(present[..., None], centres, 0.0),
        backgrounds=_index(draws["background"][:, 0], len(BACKGROUNDS)),
        tints=np.where(present[..., None], tints, 0.0),
        background_tints=BACKGROUND_TINT * (2 * draws["background_tints"] - 1),
    )


def _index(uniform: Float[np.ndarray, "..."], size: int) -> Int[np.ndarray, "..."]:
    return (uniform * size).astype(np.int64)
