from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.image_views import PLAIN, VIEWS, ImageView, views_of
from ascl_lightning.data.images import open_square, to_square

HALF = (0.5, 0.5, 0.5)
SPEC = PixelSpec(32, HALF, HALF)
BY_NAME = {view.name: view for view in (PLAIN, *views_of(["crops", "larger", "flip"]))}


def picture(width: int = 100, height: int = 80) -> Image.Image:
    """Smooth, so that scaling to a fraction in two ways gives nearly the same."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, (across + down) / 2], axis=2).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "center", "squash"),
    [
        ("plain", (10, 0, 90, 80), (0, 0, 100, 80)),
        ("flip", (10, 0, 90, 80), (0, 0, 100, 80)),
        ("larger", (10, 0, 90, 80), (0, 0, 100, 80)),
        ("crop_top_left", (0, 0, 60, 60), (0, 0, 75, 60)),
        ("crop_top_right", (40, 0, 100, 60), (25, 0, 100, 60)),
        ("crop_bottom_left", (0, 20, 60, 80), (0, 20, 75, 80)),
        ("crop_bottom_right", (40, 20, 100, 80), (25, 20, 100, 80)),
        ("crop_center", (20, 10, 80, 70), (12, 10, 87, 70)),
    ],
)
def test_boxes_of_views(name: str, center: tuple[int, ...], squash: tuple[int, ...]) -> None:
    """Of a picture of 100 x 80; crops have three quarters of a side."""
    assert BY_NAME[name].box((100, 80), "center") == center
    assert BY_NAME[name].box((100, 80), "squash") == squash


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_boxes_of_tiny_pictures_are_inside(size: tuple[int, int]) -> None:
    for view in BY_NAME.values():
        left, top, right, bottom = view.box(size, "center")
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_a_crop_is_the_plain_view_of_the_cropped_picture() -> None:
    image = picture()
    for name in VIEWS["crops"]:
        cropped = image.crop(name.box(image.size, "center"))
        np.testing.assert_array_equal(to_square(image, SPEC, view=name), to_square(cropped, SPEC))


def test_a_flipped_view_is_mirrored_and_a_larger_one_larger() -> None:
    image = picture()
    plain = to_square(image, SPEC)
    np.testing.assert_array_equal(to_square(image, SPEC, view=BY_NAME["flip"]), plain[:, :, ::-1])
    # 10 / 7 of 64 is 91, which is nearest to 3 times 32
    spec = PixelSpec(64, HALF, HALF)
    larger = to_square(image, spec, view=BY_NAME["larger"])
    np.testing.assert_array_equal(larger, to_square(image, PixelSpec(96, HALF, HALF)))
    sizes = {16: 32, 32: 64, 224: 320, 384: 544}
    assert {size: BY_NAME["larger"].spec(PixelSpec(size, HALF, HALF)).size for size in sizes} == sizes


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_are_shown_like_pictures(suffix: str, tmp_path: Path) -> None:
    """A JPEG is decoded at a fraction of its size, except for the larger view."""
    path = tmp_path / f"a.{suffix}"
    picture(400, 320).save(path, quality=95)
    with Image.open(path) as image:
        whole = image.convert("RGB")
    for view in BY_NAME.values():
        found, expected = open_square(path, SPEC, view=view).astype(int), to_square(whole, SPEC, view=view)
        assert np.abs(found - expected).max() <= (0 if suffix == "png" else 6), view


def test_kinds_are_taken_once_in_a_fixed_order() -> None:
    assert [view.name for view in views_of(["larger", "flip", "flip"])] == ["flip", "larger"]
    assert views_of([]) == []
    assert len(views_of(list(VIEWS))) == 7
    assert ImageView("plain") == PLAIN
