import itertools

import numpy as np
import pytest

from ascl_lightning.data.scenes.truth import (
    BACKGROUNDS,
    CELL_CENTRES,
    CELL_JITTER,
    COLOURS,
    COUNTS,
    OBJECT_RADII,
    SHAPES,
    SIZES,
    TONES,
    SceneObject,
    SceneTruth,
    draw_scenes,
)


@pytest.fixture(scope="module")
def scenes() -> SceneTruth:
    return draw_scenes(600, seed=5, stream=0)


def test_vocabularies_are_large_enough_and_apart():
    assert (len(set(SHAPES)), len(set(COLOURS)), len(set(SIZES))) == (8, 8, 2)
    assert not set(COLOURS) & set(BACKGROUNDS)
    assert sorted(sum(TONES.values(), ())) == sorted(BACKGROUNDS)


def test_every_word_is_drawn_about_as_often_as_any_other(scenes):
    for drawn, words in (
        (scenes.shapes[scenes.present], SHAPES),
        (scenes.colours[scenes.present], COLOURS),
        (scenes.sizes[scenes.present], SIZES),
        (scenes.backgrounds, BACKGROUNDS),
        (scenes.counts - min(COUNTS), COUNTS),
    ):
        shares = np.bincount(drawn, minlength=len(words)) / len(drawn)
        assert len(shares) == len(words)
        # Five standard deviations of a share.
        assert abs(shares - 1 / len(words)).max() < 5 * np.sqrt(1 / len(words) / len(drawn))


def test_no_object_hides_another_or_leaves_the_picture(scenes):
    radius = OBJECT_RADII[1]
    for row in range(len(scenes)):
        things = scenes.objects(row)
        assert len(things) == scenes.counts[row]
        assert len({(thing.shape, thing.colour) for thing in things}) == len(things)
        for thing in things:
            assert radius <= thing.x <= 1 - radius
            assert radius <= thing.y <= 1 - radius
        for one, other in itertools.combinations(things, 2):
            # Two large ones overlap by a seventh of their width at most.
            assert max(abs(one.x - other.x), abs(one.y - other.y)) > 2 * radius * 6 / 7


def test_every_object_is_clearly_in_one_third(scenes):
    # Else some places and relations could not be told at all.
    assert (scenes.thirds[scenes.present] >= 0).all()
    assert max(CELL_CENTRES) + CELL_JITTER < 1


def test_thirds_and_words_by_hand():
    centres = np.array([[[0.3, 0.31], [0.5, 0.7], [0.61, 0.0], [0.0, 0.0]]])
    scene = SceneTruth(
        shapes=np.array([[0, 3, 7, -1]]),
        colours=np.array([[0, 7, 5, -1]]),
        sizes=np.array([[1, 0, 0, -1]]),
        centres=centres,
        backgrounds=np.array([3]),
        tints=np.zeros((1, 4, 3)),
        background_tints=np.zeros((1, 3)),
    )
    np.testing.assert_array_equal(scene.thirds[0, :3], [[0, -1], [1, 2], [-1, 0]])
    assert scene.counts.tolist() == [3]
    assert scene.background(0) == "slate"
    assert scene.objects(0) == [
        SceneObject("circle", "red", "large", 0.3, 0.31, (0, -1)),
        SceneObject("star", "pink", "small", 0.5, 0.7, (1, 2)),
        SceneObject("heart", "blue", "small", 0.61, 0.0, (-1, 0)),
    ]


def test_a_scene_depends_on_seed_stream_and_row_alone(scenes):
    few = draw_scenes(50, seed=5, stream=0)
    np.testing.assert_array_equal(few.centres, scenes.centres[:50])
    np.testing.assert_array_equal(few.tints, scenes.tints[:50])
    for other in (draw_scenes(50, seed=6, stream=0), draw_scenes(50, seed=5, stream=1)):
        assert not np.isclose(other.background_tints, few.background_tints).all(axis=1).any()


def test_take_gives_rows_in_order(scenes):
    taken = scenes.take([4, 2])
    assert len(taken) == 2
    assert [taken.objects(0), taken.objects(1)] == [scenes.objects(4), scenes.objects(2)]
