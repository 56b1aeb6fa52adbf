import itertools

import numpy as np
import pytest

from ascl_lightning.data.scenes.rendering import BACKGROUND_LEVELS, COLOUR_LEVELS, render
from ascl_lightning.data.scenes.truth import (
    BACKGROUNDS,
    COLOURS,
    OBJECT_RADII,
    SHAPES,
    SIZES,
    SceneTruth,
    draw_scenes,
)


def scene_of(*things: tuple[str, str, str, float, float], background: str = "white") -> SceneTruth:
    """One scene of (size, colour, shape, x, y), without tints."""
    empty = [-1] * (4 - len(things))
    return SceneTruth(
        shapes=np.array([[SHAPES.index(thing[2]) for thing in things] + empty]),
        colours=np.array([[COLOURS.index(thing[1]) for thing in things] + empty]),
        sizes=np.array([[SIZES.index(thing[0]) for thing in things] + empty]),
        centres=np.array([[thing[3:] for thing in things] + [(0.0, 0.0)] * len(empty)], dtype=float),
        backgrounds=np.array([BACKGROUNDS.index(background)]),
        tints=np.zeros((1, 4, 3)),
        background_tints=np.zeros((1, 3)),
    )


def outline(shape: str, image_size: int = 64) -> np.ndarray:
    """Where a large object was painted on white."""
    with_object = render(scene_of(("large", "blue", shape, 0.5, 0.5)), image_size)[0].astype(int)
    return abs(with_object - render(scene_of(), image_size)[0]).sum(axis=-1) > 100


def test_a_picture_does_not_depend_on_the_others():
    scenes = draw_scenes(30, seed=0, stream=0)
    pictures = render(scenes, 64)
    np.testing.assert_array_equal(render(scenes.take([17, 4]), 64), pictures[[17, 4]])


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds_have_their_colour(background):
    picture = render(scene_of(background=background), 64)[0].astype(float)
    # Lighter above than below; the middle is as named.
    np.testing.assert_allclose(picture[31:33].mean(axis=(0, 1)), BACKGROUND_LEVELS[background], atol=2)
    assert (picture[0] >= picture[-1]).all()
    assert (picture == picture[:, :1]).all()


@pytest.mark.parametrize("colour", COLOURS)
def test_objects_have_their_colour_at_their_centre(colour):
    picture = render(scene_of(("small", colour, "square", 0.2, 0.8)), 64)[0]
    np.testing.assert_allclose(picture[51, 12], COLOUR_LEVELS[colour], atol=1)
    np.testing.assert_array_equal(picture[12, 51], render(scene_of(), 64)[0][12, 51])


def test_tints_are_added():
    scene = scene_of(("large", "blue", "circle", 0.5, 0.5))
    scene.tints[0, 0] = 10, -5, 7
    scene.background_tints[0] = -20, 3, 0
    picture, plain = render(scene, 64)[0].astype(int), render(scene_of(("large", "blue", "circle", 0.5, 0.5)), 64)[0]
    assert (picture[32, 32] - plain[32, 32]).tolist() == [10, -5, 7]
    assert (picture[32, 2] - plain[32, 2]).tolist() == [-20, 3, 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_lies_within_its_radius_around_its_centre(shape):
    rows, columns = np.nonzero(outline(shape, 200))
    radius = OBJECT_RADII[1] * 200
    assert max(abs(rows + 0.5 - 100).max(), abs(columns + 0.5 - 100).max()) <= radius + 1
    assert max(np.ptp(rows), np.ptp(columns)) > 1.5 * radius
    # As much on the left as on the right.
    assert columns.mean() == pytest.approx(99.5, abs=0.6)


def test_shapes_differ_from_each_other():
    for one, other in itertools.combinations(SHAPES, 2):
        a, b = outline(one), outline(other)
        assert (a & b).sum() < 0.86 * (a | b).sum(), (one, other)


def test_holes_and_tips_are_where_the_names_say():
    # Rows of pixels through the middle, and the widths at a quarter and three quarters of the height.
    assert not outline("ring")[32, 32]
    assert outline("circle")[32, 32]
    for shape, wide_below in (("triangle", True), ("heart", False)):
        widths = outline(shape, 200).sum(axis=1)
        widths = widths[widths > 0]
        assert (widths[3 * len(widths) // 4] > 1.5 * widths[len(widths) // 4]) == wide_below
        assert (widths[len(widths) // 4] > 1.5 * widths[3 * len(widths) // 4]) == (not wide_below)
    star = outline("star", 200)
    top = np.nonzero(star.any(axis=1))[0][0]
    assert star[top + 1, 98:102].any()
    assert not star[np.nonzero(star.any(axis=1))[0][-1], 98:102].any()


def test_edges_are_smooth():
    picture = render(scene_of(("large", "blue", "circle", 0.5, 0.5)), 64)[0, ..., 0]
    assert len(np.unique(picture[22:42, 22:42])) > 20


def test_large_is_larger_than_small():
    def area(size: str, shape: str) -> int:
        picture = render(scene_of((size, "purple", shape, 0.5, 0.5)), 64)[0].astype(int)
        return int((abs(picture - render(scene_of(), 64)[0]).sum(axis=-1) > 60).sum())

    for shape in SHAPES:
        assert area("large", shape) > 1.7 * area("small", shape)


def test_later_objects_are_painted_over_earlier_ones():
    scene = scene_of(("large", "red", "square", 0.5, 0.5), ("small", "green", "square", 0.5, 0.5))
    picture = render(scene, 256)[0]
    np.testing.assert_allclose(picture[128, 128], COLOUR_LEVELS["green"], atol=1)
    np.testing.assert_allclose(picture[128, 103], COLOUR_LEVELS["red"], atol=12)


def test_larger_pictures_show_the_same():
    scenes = draw_scenes(20, seed=1, stream=0)
    small = render(scenes, 64).astype(float)
    halved = render(scenes, 128).astype(float).reshape(20, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    # Positions are rounded to whole pixels, so outlines may be off by half a pixel.
    assert abs(halved - small).mean() < 3
    assert render(scenes, 16).shape == (20, 16, 16, 3)
