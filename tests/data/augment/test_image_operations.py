from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ascl_lightning.data.augment.image_operations import (
    Blur,
    CropPart,
    Occlude,
    SideBySide,
    check_shares,
    choose_operation,
)
from ascl_lightning.errors import UserError

OPERATIONS = (CropPart, SideBySide, Blur, Occlude)
SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
SEEDS = st.integers(0, 1000)


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """No two places of it look alike, and none is grey."""
    pixels = np.random.default_rng(seed).integers(0, 127, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def apply(operation, image: Image.Image, seed: int = 0, other: Image.Image | None = None) -> Image.Image:
    return operation(image, lambda: noise((33, 21), 9) if other is None else other, np.random.default_rng(seed))


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_any_picture_becomes_rgb_without_changing_the_input(operation, size, seed):
    image = noise(size)
    before = image.tobytes()
    made = apply(operation(), image, seed)
    assert made.mode == "RGB"
    assert min(made.size) >= 1
    assert image.tobytes() == before
    if operation in (Blur, Occlude):
        assert made.size == size


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_thin_pictures_work(operation, size):
    for seed in range(20):
        assert apply(operation(), noise(size), seed).mode == "RGB"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_same_draws_give_the_same_picture(operation):
    image = noise((60, 40))
    made = [apply(operation(), image, seed).tobytes() for seed in range(12)]
    assert made == [apply(operation(), image, seed).tobytes() for seed in range(12)]
    assert len(set(made)) > 1


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(40, 90), st.integers(40, 90)), seed=SEEDS)
def test_a_crop_has_a_quarter_to_half_of_the_area(size, seed):
    image = noise(size)
    part = apply(CropPart(), image, seed)
    # rounding moves each side by half a pixel at most
    slack = (part.width + part.height) / 2 + 1
    assert 0.25 * size[0] * size[1] - slack <= part.width * part.height <= 0.5 * size[0] * size[1] + slack
    assert part.width / part.height == pytest.approx(size[0] / size[1], rel=0.06)
    pixels, wanted = np.asarray(image), np.asarray(part)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, wanted.shape)[:, :, 0]
    places = np.argwhere((windows[:, :, 0, 0] == wanted[0, 0]).all(axis=-1))
    assert any((windows[row, column] == wanted).all() for row, column in places)


def test_parts_come_from_everywhere():
    image = Image.fromarray(np.arange(100, dtype=np.uint8).repeat(300).reshape(100, 100, 3))
    tops = {int(np.asarray(apply(CropPart(), image, seed))[0, 0, 0]) for seed in range(300)}
    assert min(tops) < 5
    assert max(tops) > 35


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(*[st.integers(30, 90)] * 2), other=st.tuples(*[st.integers(30, 90)] * 2), seed=SEEDS)
def test_side_by_side_holds_both_whole_on_a_square(size, other, seed):
    image, beside = Image.new("RGB", size, (255, 0, 0)), Image.new("RGB", other, (0, 0, 255))
    made = np.asarray(apply(SideBySide(), image, seed, beside))
    assert made.shape == (max(size), max(size), 3)
    boxes = [box_of(made, colour) for colour in ((255, 0, 0), (0, 0, 255))]
    for (top, bottom, left, right), (width, height) in zip(boxes, (size, other), strict=True):
        # rounding moves each side by a pixel at most
        assert abs((right - left) * height - (bottom - top) * width) <= 2 * (width + height)
    heights, widths = [box[1] - box[0] for box in boxes], [box[3] - box[2] for box in boxes]
    beside_each_other = sum(width / height for width, height in (size, other)) <= 2
    assert abs(heights[0] - heights[1]) <= 1 if beside_each_other else abs(widths[0] - widths[1]) <= 1
    # the longer way of the two together fills the square, or their common side does
    assert max(sum(widths) if beside_each_other else sum(heights), heights[0], widths[0]) >= max(size) - 2


def box_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what has a colour, which must be one whole box."""
    found = (pixels == colour).all(axis=-1)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert found.sum() == (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0])
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_by_hand_two_portraits_and_two_landscapes():
    red, blue = (255, 0, 0), (0, 0, 255)
    made = np.asarray(apply(SideBySide(), Image.new("RGB", (20, 40), red), 0, Image.new("RGB", (10, 20), blue)))
    assert {box_of(made, red), box_of(made, blue)} == {(0, 40, 0, 20), (0, 40, 20, 40)}
    made = np.asarray(apply(SideBySide(), Image.new("RGB", (40, 10), red), 0, Image.new("RGB", (40, 10), blue)))
    assert {box_of(made, red), box_of(made, blue)} == {(10, 20, 0, 40), (20, 30, 0, 40)}


def test_either_picture_comes_first():
    image, beside = Image.new("RGB", (20, 40), (255, 0, 0)), Image.new("RGB", (20, 40), (0, 0, 255))
    firsts = [tuple(np.asarray(apply(SideBySide(), image, seed, beside))[0, 0]) for seed in range(100)]
    assert 25 < firsts.count((255, 0, 0)) < 75  # 100 fair draws give others with a chance below 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_a_blur_flattens_a_checkerboard_and_keeps_its_mean(seed):
    board = (np.indices((100, 120)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = Image.fromarray(np.stack([board] * 3, axis=-1))
    made = np.asarray(apply(Blur(), image, seed)).astype(float)
    assert made.var() < 0.2 * np.asarray(image).astype(float).var()
    assert made.mean() == pytest.approx(127.5, abs=3)


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(20, 90), st.integers(20, 90)), seed=SEEDS)
def test_a_grey_box_hides_a_tenth_to_three_tenths_and_nothing_else(size, seed):
    image = noise(size)
    made, pixels = np.asarray(apply(Occlude(), image, seed)), np.asarray(image)
    hidden = (made == 128).all(axis=-1)
    rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
    assert hidden.sum() == len(rows) * len(columns), "one box"
    assert hidden[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    slack = (len(rows) + len(columns)) / 2 + 1
    assert 0.1 * hidden.size - slack <= hidden.sum() <= 0.3 * hidden.size + slack
    assert (made[~hidden] == pixels[~hidden]).all()


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_is_above_0_and_at_most_1(probability):
    with pytest.raises(UserError, match="blur"):
        Blur(probability)


def test_shares_of_more_than_all_pictures_are_refused():
    check_shares(())
    check_shares([Blur(0.1)] * 10)  # 0.1 ten times is not quite 1 in binary
    check_shares([Blur(1.0)])
    with pytest.raises(UserError, match=r"sum to 1\.1"):
        check_shares([Blur(0.6), CropPart(0.5)])


@pytest.mark.parametrize("shares", [(0.1, 0.2, 0.3), (0.5, 0.5), (1.0,), (0.05,), ()])
def test_each_operation_gets_its_share_of_the_pictures(shares):
    operations = [of(share) for of, share in zip((Blur, CropPart, Occlude), shares, strict=False)]
    draws = 8000
    rng = np.random.default_rng(5)
    counts = Counter(choose_operation(operations, rng) for _ in range(draws))
    for operation, share in [*zip(operations, shares, strict=True), (None, 1 - sum(shares))]:
        # five standard deviations: less than once in a million
        assert abs(counts[operation] - share * draws) <= 5 * (draws * share * (1 - share)) ** 0.5 + 1e-6


@settings(max_examples=50, deadline=None)
@given(shares=st.lists(st.floats(0.01, 1), max_size=5), seed=SEEDS)
def test_one_draw_decides(shares, seed):
    """So that adding an operation at the end changes only pictures that had none."""
    total = max(1.0, sum(shares))
    operations = [Blur(share / total) for share in shares]
    fewer = choose_operation(operations[:-1], np.random.default_rng(seed))
    chosen = choose_operation(operations, np.random.default_rng(seed))
    assert fewer is None or chosen is fewer
    assert chosen is None or any(chosen is of for of in operations)
