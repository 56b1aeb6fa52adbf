import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.helpers.checking import texture

from ascl_lightning.curation.check.resemblance import (
    COLOUR_DISTANCE,
    COLOURS,
    HASH_DISTANCE,
    Look,
    Looks,
    first_matches,
    near_pairs,
)
from ascl_lightning.data.fingerprint import digest


def encoded(image: Image.Image, kind: str, **options: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file).convert("RGB")


def looks_of(*pictures: Image.Image) -> Looks:
    looks = [Look.of(picture) for picture in pictures]
    return Looks(
        np.array([look.hash for look in looks], np.uint64),
        np.stack([look.colours for look in looks]),
        np.array([look.is_flat for look in looks]),
    )


def are_near(one: Image.Image, other: Image.Image) -> bool:
    matches = first_matches(np.arange(2), np.zeros(2, np.int64), 1, looks_of(one, other))
    return matches.tolist() == [[0], [0]]


def naive_hash(picture: Image.Image) -> int:
    """A cosine transform, sum by sum; a wave of one level gives 16 * 16."""
    grey = np.asarray(picture.convert("L"), float)
    assert grey.shape == (32, 32)
    value = 0
    for u in range(1, 9):
        for v in range(1, 9):
            total = sum(
                grey[y, x] * math.cos(math.pi * u * (y + 0.5) / 32) * math.cos(math.pi * v * (x + 0.5) / 32)
                for y in range(32)
                for x in range(32)
            )
            value = 2 * value + bool(total > 256)
    return value


@pytest.mark.parametrize("seed", range(3))
def test_the_hash_is_of_a_cosine_transform(seed):
    picture = texture(seed, (32, 32))
    assert Look.of(picture).hash == naive_hash(picture)


def test_colours_are_means_of_8_by_8_fields():
    fields = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(fields.repeat(8, axis=0).repeat(8, axis=1))
    assert Look.of(picture).colours.tolist() == fields.ravel().tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "again",
    [
        lambda picture: encoded(picture, "JPEG", quality=75),
        lambda picture: encoded(picture, "JPEG", quality=30),
        lambda picture: encoded(picture, "WEBP", quality=60),
        lambda picture: encoded(picture.resize((160, 120)), "JPEG", quality=90),
        lambda picture: picture.resize((640, 480)),
        lambda picture: picture.resize((224, 224)),
    ],
    ids=["jpeg 75", "jpeg 30", "webp", "half", "double", "squashed"],
)
def test_a_resized_or_reencoded_picture_is_near(seed, again):
    assert are_near(texture(seed), again(texture(seed)))


def test_different_pictures_are_not_near():
    looks = looks_of(*(texture(seed) for seed in range(60)))
    assert first_matches(np.arange(60), np.zeros(60, np.int64), 1, looks).ravel().tolist() == list(range(60))


def test_the_same_shapes_in_other_colours_are_not_near():
    """Red and green of one brightness: the hash cannot tell them apart, the colours can."""
    one = np.full((64, 64, 3), 200, np.uint8)
    one[10:30, 8:50] = (150, 0, 0)
    other = one.copy()
    other[10:30, 8:50] = (0, 76, 0)
    pictures = Image.fromarray(one), Image.fromarray(other)
    assert (Look.of(pictures[0]).hash ^ Look.of(pictures[1]).hash).bit_count() <= HASH_DISTANCE
    assert not are_near(*pictures)


def test_flat_pictures_are_near_to_none():
    white, cream = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), (254, 254, 250))
    noisy = np.random.default_rng(0).integers(250, 256, (64, 64, 3), dtype=np.uint8)
    for picture in (cream, Image.fromarray(noisy)):
        assert Look.of(picture).is_flat
        assert not are_near(white, picture)
    line = np.full((64, 64, 3), 255, np.uint8)
    line[30:34] = 0
    assert not Look.of(Image.fromarray(line)).is_flat


def test_a_digest_is_of_shape_and_content():
    arrays = [np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((2, 3, 1)), np.ones((2, 3)), np.zeros((2, 3), np.float32)]
    assert len({digest(array) for array in arrays}) == 5
    assert digest(np.zeros((2, 3))) == digest(np.zeros((3, 2)).reshape(2, 3))
    assert digest(arrays[0], arrays[1]) != digest(arrays[1], arrays[0])
    # strided ones are read as they are seen
    assert digest(np.arange(6.0).reshape(2, 3).T) == digest(np.array([[0.0, 3], [1, 4], [2, 5]]))


BITS = st.integers(0, 63)


@st.composite
def clusters(draw) -> tuple[np.ndarray, np.ndarray]:
    """Hashes a few bits from some centres, with colours a few levels from others."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    hashes, colours = [], []
    for _ in range(draw(st.integers(0, 25))):
        value = draw(st.sampled_from(centres))
        for bit in draw(st.sets(BITS, max_size=4)):
            value ^= 1 << bit
        hashes.append(value)
        shift = draw(st.integers(0, COLOUR_DISTANCE + 1))
        place = draw(st.integers(0, COLOURS))
        colours.append([100 + shift if place in (i, COLOURS) else 100 for i in range(COLOURS)])
    return np.array(hashes, np.uint64), np.array(colours, np.uint8).reshape(-1, COLOURS)


def naive_pairs(hashes: np.ndarray, colours: np.ndarray) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 3
        and max(abs(int(a) - int(b)) for a, b in zip(colours[i], colours[j], strict=True)) <= 16
    }


@settings(max_examples=60, deadline=None)
@given(clusters())
def test_near_pairs_are_those_of_a_comparison_of_all_with_all(made):
    hashes, colours = made
    found = {
        (min(i, j), max(i, j))
        for first, second in near_pairs(hashes, colours)
        for i, j in zip(first.tolist(), second.tolist(), strict=True)
    }
    assert found == naive_pairs(hashes, colours)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.data())
def test_first_matches_are_those_of_a_comparison_of_all_with_all(made, data):
    hashes, colours = made
    number = len(hashes)
    lists = st.lists(st.integers(0, 2), min_size=number, max_size=number)
    groups, flat = np.array(data.draw(lists), np.int64), np.array(data.draw(lists), np.int64) == 0
    values = hashes ^ colours[:, 0].astype(np.uint64)
    pairs = naive_pairs(hashes, colours)
    found = first_matches(values, groups, 3, Looks(hashes, colours, flat))
    # an item stands for all of its value: the first of them is looked at
    first = {value: rows[0] for value in values.tolist() if (rows := np.flatnonzero(values == value)).size}
    for i in range(number):
        one = first[values[i].item()]
        like = [
            j
            for j in range(number)
            if (other := first[values[j].item()]) == one
            or ((min(one, other), max(one, other)) in pairs and not flat[one] and not flat[other])
        ]
        assert found[i].tolist() == [min((j for j in like if groups[j] == group), default=number) for group in range(3)]


def test_equal_values_alone_match_without_looks():
    found = first_matches(np.array([7, 5, 7, 5, 9]), np.array([0, 0, 1, 1, 1]), 2)
    assert found.tolist() == [[0, 2], [1, 3], [0, 2], [1, 3], [5, 4]]
    assert first_matches(np.zeros(0, np.int64), np.zeros(0, np.int64), 2).shape == (0, 2)
