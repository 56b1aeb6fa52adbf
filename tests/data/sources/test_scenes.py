import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import naive_scenes

from ascl_lightning.data.sources.scenes import Scenes, ceiling_of_truth
from ascl_lightning.errors import UserError


def scenes_of(num_test: int = 30, **changes) -> Scenes:
    return Scenes(num_train=30, num_val=20, num_test=num_test, **changes)


def test_a_split_has_its_size_pictures_and_captions():
    split = scenes_of(captions_per_image=3, image_size=32).read(None, "val")
    assert len(split) == 20
    assert split.images.shape == (20, 32, 32, 3)
    assert split.images.dtype == np.uint8
    assert [len(texts) for texts in split.captions] == [3] * 20
    assert split.image_ids[7] == "val-00007"


def test_default_sizes():
    sizes = {split: len(Scenes().truth(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 4000, "val": 200, "test": 500}


def test_a_smaller_split_is_the_beginning_of_a_larger_one():
    large, small = scenes_of(30).read(None, "test"), scenes_of(12).read(None, "test")
    np.testing.assert_array_equal(small.images, large.images[:12])
    assert list(small.captions) == list(large.captions[:12])
    assert list(small.image_ids) == list(large.image_ids[:12])


def test_fewer_captions_are_the_first_ones():
    five, two = scenes_of().structured_captions("test"), scenes_of(captions_per_image=2).structured_captions("test")
    assert [of_scene[:2] for of_scene in five] == two


def test_splits_and_seeds_differ_and_repeat():
    train, test = scenes_of().read(None, "train"), scenes_of().read(None, "test")
    other = scenes_of(seed=1).read(None, "test")
    assert not set(train.captions) & set(test.captions)
    # Nor do they draw the same random numbers for their captions.
    wordings = [
        {caption.sentences[0].wording for captions in scenes_of().structured_captions(split) for caption in captions}
        for split in ("train", "test")
    ]
    assert not wordings[0] & wordings[1]
    assert not set(other.captions) & set(test.captions)
    assert not np.array_equal(other.images, test.images)
    np.testing.assert_array_equal(scenes_of().read(None, "test").images, test.images)


def test_image_size_changes_pictures_only():
    assert scenes_of(image_size=16).read(None, "test").captions == scenes_of(image_size=96).read(None, "test").captions


def test_structured_captions_are_the_captions_that_are_read():
    scenes = scenes_of()
    texts = [tuple(caption.text for caption in captions) for captions in scenes.structured_captions("test")]
    assert texts == list(scenes.read(None, "test").captions)


def test_a_missing_split_lists_the_existing_ones():
    for ask in (lambda: scenes_of().read(None, "dev"), lambda: scenes_of().ceiling(None, "dev")):
        with pytest.raises(UserError, match=r"no split 'dev'.*train \(30\), val \(20\), test \(30\)"):
            ask()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_train", 0),
        ("num_val", 0),
        ("num_test", -1),
        ("captions_per_image", 0),
        ("captions_per_image", 21),
        ("image_size", 15),
        ("seed", -1),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(argument, value):
    with pytest.raises(UserError, match=f"{argument} is {value}"):
        Scenes(**{argument: value})


def test_twenty_captions_of_every_scene_differ():
    for texts in scenes_of(10, captions_per_image=20).read(None, "test").captions:
        assert len(set(texts)) == 20


def test_the_ceiling_of_the_default_test_split_is_near_the_top():
    ceiling = Scenes().ceiling(None, "test")
    assert 97 < ceiling["image_to_text/recall_at_1"] < 100
    assert 97 < ceiling["text_to_image/recall_at_1"] < 100
    assert list(ceiling) == [
        *(f"{way}/recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
        "rsum",
    ]


def test_the_ceiling_of_a_split_follows_from_its_captions():
    scenes = scenes_of()
    truth, captions = scenes.truth("test"), scenes.structured_captions("test")
    holds = np.array([naive_scenes.caption_holds(caption, truth) for of_scene in captions for caption in of_scene])
    expected = naive_scenes.ceiling_by_counting(holds, np.repeat(np.arange(30), 5))
    assert scenes.ceiling(None, "test") == pytest.approx(expected)


def test_ceiling_by_hand():
    # Texts 0 and 1 are of image 0, text 2 of image 1; text 1 holds for both.
    metrics = ceiling_of_truth(np.array([[True, False], [True, True], [False, True]]), np.array([0, 0, 1]))
    # Text 1 finds its image every other time; image 1 finds its text every other time, and with two of two always.
    assert metrics == pytest.approx(
        {
            "image_to_text/recall_at_1": 75.0,
            "image_to_text/recall_at_5": 100.0,
            "image_to_text/recall_at_10": 100.0,
            "text_to_image/recall_at_1": 250 / 3,
            "text_to_image/recall_at_5": 100.0,
            "text_to_image/recall_at_10": 100.0,
            "rsum": 475 + 250 / 3,
        }
    )


def test_ceiling_where_everything_holds_is_chance():
    metrics = ceiling_of_truth(np.ones((24, 12), dtype=bool), np.repeat(np.arange(12), 2))
    # 2 of 24 texts are an image's own: five draws miss both with chance (19 * 18) / (24 * 23).
    assert metrics["image_to_text/recall_at_1"] == pytest.approx(100 / 12)
    assert metrics["image_to_text/recall_at_5"] == pytest.approx(100 * (1 - 342 / 552))
    assert metrics["text_to_image/recall_at_5"] == pytest.approx(500 / 12)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_ceiling_equals_whole_binomial_coefficients(data):
    num_texts = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=14))
    ids = np.repeat(np.arange(len(num_texts)), num_texts)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    holds = rng.random((len(ids), len(num_texts))) < data.draw(st.sampled_from([0.1, 0.5, 0.95]))
    holds[np.arange(len(ids)), ids] = True
    assert ceiling_of_truth(holds, ids) == pytest.approx(naive_scenes.ceiling_by_counting(holds, ids))


def test_ceiling_equals_the_mean_of_many_lots():
    rng = np.random.default_rng(3)
    ids = np.repeat(np.arange(14), 3)
    holds = rng.random((42, 14)) < 0.2
    holds[np.arange(42), ids] = True
    drawn = naive_scenes.ceiling_by_lot(holds, ids, num_draws=800, seed=0)
    metrics = ceiling_of_truth(holds, ids)
    assert 20 < metrics["image_to_text/recall_at_1"] < 60
    for name in drawn.keys() - {"rsum"}:
        assert metrics[name] == pytest.approx(drawn[name], abs=1.5)


def test_ceiling_refuses_false_texts_and_images_without_text():
    with pytest.raises(ValueError, match="must hold for its own image"):
        ceiling_of_truth(np.array([[True, True], [True, False]]), np.array([0, 1]))
    with pytest.raises(ValueError, match="needs a text"):
        ceiling_of_truth(np.ones((2, 2), dtype=bool), np.array([0, 0]))
