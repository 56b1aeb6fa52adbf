"""Renders generated scenes by blending anti-aliased stencils into many pictures at once."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int, UInt8

from ascl_lightning.data.scenes.truth import BACKGROUNDS, COLOURS, MAX_OBJECTS, OBJECT_RADII, SHAPES, SceneTruth

COLOUR_LEVELS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (222, 46, 42),
        "orange": (248, 140, 30),
        "yellow": (250, 214, 48),
        "green": (48, 164, 72),
        "cyan": (56, 204, 212),
        "blue": (40, 92, 216),
        "purple": (138, 62, 182),
        "pink": (246, 132, 190),
    }
)
BACKGROUND_LEVELS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "white": (242, 242, 240),
        "beige": (226, 206, 170),
        "grey": (166, 170, 174),
        "slate": (70, 84, 102),
        "brown": (92, 62, 46),
        "black": (20, 20, 24),
    }
)

_SUPERSAMPLING = 8
_RIM_WIDTH = 0.14
_RIM_SHADE = 0.72
_LIGHT_FALL = 0.06

_Plane = Float[np.ndarray, "P P"]


def render(scenes: SceneTruth, image_size: int) -> UInt8[np.ndarray, "N S S 3"]:
    """Renders scenes, each independently of the others, to RGB pictures of height and width S, (N, S, S, 3)."""
    pictures = _paint_backgrounds(scenes, image_size)
    for slot in range(MAX_OBJECTS):
        for shape in range(len(SHAPES)):
            for size in range(len(OBJECT_RADII)):
                rows = np.flatnonzero((scenes.shapes[:, slot] == shape) & (scenes.sizes[:, slot] == size))
                if len(rows):
                    _stamp(pictures, scenes, rows, slot)
    return pictures


def _paint_backgrounds(scenes: SceneTruth, image_size: int) -> UInt8[np.ndarray, "N S S 3"]:
    levels = np.array([BACKGROUND_LEVELS[name] for name in BACKGROUNDS], np.float32)[scenes.backgrounds]
    light = np.linspace(1 + _LIGHT_FALL, 1 - _LIGHT_FALL, image_size, dtype=np.float32)
    lines = (levels + scenes.background_tints)[:, None, :] * light[:, None]
    return np.repeat(_to_levels(lines)[:, :, None, :], image_size, axis=2)


def _stamp(pictures: UInt8[np.ndarray, "N S S 3"], scenes: SceneTruth, rows: Int[np.ndarray, " G"], slot: int) -> None:
    """Blends the objects of one slot, all of the same shape and size, into the pictures of `rows`."""
    image_size = pictures.shape[1]
    cover, shading = _stencil(SHAPES[scenes.shapes[rows[0], slot]], int(scenes.sizes[rows[0], slot]), image_size)
    corners = np.rint(scenes.centres[rows, slot] * image_size - len(cover) / 2).astype(np.int64)
    # the transparent border of a stencil may exceed a tiny picture
    corners = corners.clip(0, image_size - len(cover))
    steps = np.arange(len(cover))
    where = (
        rows[:, None, None],
        corners[:, 1, None, None] + steps[:, None],
        corners[:, 0, None, None] + steps,
    )
    levels = np.array([COLOUR_LEVELS[name] for name in COLOURS], np.float32)[scenes.colours[rows, slot]]
    paint = (levels + scenes.tints[rows, slot].astype(np.float32))[:, None, None, :] * shading[..., None]
    pictures[where] = _to_levels(pictures[where] * (1 - cover[..., None]) + paint.clip(0, 255) * cover[..., None])


def _to_levels(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return (values.clip(0, 255) + 0.5).astype(np.uint8)


@cache
def _stencil(shape: str, size: int, image_size: int) -> tuple[_Plane, _Plane]:
    """Coverage of each pixel by a shape, in [0, 1], and its brightness, which is lower along the rim."""
    radius = OBJECT_RADII[size] * image_size
    side = min(2 * int(np.ceil(radius)), image_size)
    ticks = (np.arange(side * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING - side / 2
    x, y = np.meshgrid(ticks / radius, ticks / radius)
    depth = -_DISTANCES[shape](x, y)
    cover = _shrink(depth > 0, side)
    core = _shrink(depth > _RIM_WIDTH, side)
    shading = _RIM_SHADE + (1 - _RIM_SHADE) * core / np.maximum(cover, 1e-6)
    return cover.astype(np.float32), shading.astype(np.float32)


def _shrink(fine: np.ndarray, side: int) -> _Plane:
    return fine.reshape(side, _SUPERSAMPLING, side, _SUPERSAMPLING).mean(axis=(1, 3))


# Signed distances to the outlines (negative inside), x to the right and y down, each shape within [-1, 1].


def _circle(x: _Plane, y: _Plane) -> _Plane:
    return np.hypot(x, y) - 0.92


def _square(x: _Plane, y: _Plane) -> _Plane:
    return np.maximum(abs(x), abs(y)) - 0.82


def _triangle(x: _Plane, y: _Plane) -> _Plane:
    slope = np.hypot(2, 1)
    return np.maximum((2 * abs(x) - y - 0.95) / slope, y - 0.85)


def _star(x: _Plane, y: _Plane) -> _Plane:
    """A point of a pentagram is on the inner side of at least four of five lines. The tips are rounded."""
    angles = np.deg2rad(72 * np.arange(5) - 90)
    lines = np.stack([x * np.cos(angle) + (y - 0.04) * np.sin(angle) for angle in angles])
    return np.maximum(np.sort(lines, axis=0)[-2] - 0.37, np.hypot(x, y) - 0.98)


def _cross(x: _Plane, y: _Plane) -> _Plane:
    wide = np.maximum(abs(x) - 0.95, abs(y) - 0.32)
    tall = np.maximum(abs(x) - 0.32, abs(y) - 0.95)
    return np.minimum(wide, tall)


def _ring(x: _Plane, y: _Plane) -> _Plane:
    return abs(np.hypot(x, y) - 0.72) - 0.26


def _diamond(x: _Plane, y: _Plane) -> _Plane:
    return (abs(x) / 0.78 + abs(y) - 1) / np.hypot(1 / 0.78, 1)


def _heart(x: _Plane, y: _Plane) -> _Plane:
    """A square on its corner with two half discs on its upper sides."""
    half, drop = 0.56, 0.12
    tip = (abs(x) + abs(y - drop)) / np.sqrt(2) - half
    offset = half / np.sqrt(2)
    lobes = np.hypot(abs(x) - offset, y - drop + offset) - half
    return np.minimum(tip, lobes)


_DISTANCES: Mapping[str, Callable[[_Plane, _Plane], _Plane]] = MappingProxyType(
    {
        "circle": _circle,
        "square": _square,
        "triangle": _triangle,
        "star": _star,
        "cross": _cross,
        "ring": _ring,
        "diamond": _diamond,
        "heart": _heart,
    }
)
