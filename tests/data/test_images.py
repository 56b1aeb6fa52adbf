import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile
from torchvision.transforms.v2 import functional as reference

from ascl_lightning.data import images
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.images import (
    ImageBytes,
    ImageFacts,
    ends,
    image_facts,
    open_image,
    open_square,
    to_square,
)
from ascl_lightning.errors import UserError

COCO_MINI = Path(__file__).parents[3] / "shared" / "coco_mini" / "train2017"
ENDINGS = ("jpg", "png", "webp", "gif", "bmp", "tiff")


def spec(size: int, **changes: str) -> PixelSpec:
    return PixelSpec(size, (0.5,) * 3, (0.5,) * 3, **changes)  # type: ignore[arg-type]


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file, written without any library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pixels(path: Path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def noise(height: int = 64, width: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


DOORS = [open_image, lambda path: open_square(path, spec(16))]

# What a picture looks like


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff"])
def test_lossless_kinds_are_exact_whatever_the_name(tmp_path: Path, ending: str) -> None:
    noise().save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "a.dat")
    np.testing.assert_array_equal(pixels(tmp_path / "a.dat"), np.asarray(noise()))


@pytest.mark.parametrize("ending", ["jpg", "webp", "gif"])
def test_lossy_kinds_are_close(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (32, 32), (200, 100, 50)).save(tmp_path / f"a.{ending}")
    np.testing.assert_allclose(pixels(tmp_path / f"a.{ending}")[16, 16], (200, 100, 50), atol=3)


# how the sensor's rows lie for each EXIF orientation, from the EXIF 2.32 standard (tag 0x0112)
STORED = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: np.rot90(seen, 1),
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),
    8: lambda seen: np.rot90(seen, -1),
}


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_the_eight_orientations(tmp_path: Path, orientation: int, ending: str) -> None:
    blocks = np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[250, 250, 0], [0, 0, 0], [250, 250, 250]]], np.uint8)
    seen = blocks.repeat(16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](seen)))
    stored.save(tmp_path / f"a.{ending}", exif=exif, quality=100)
    result = pixels(tmp_path / f"a.{ending}")
    assert result.shape == seen.shape
    centres = result[8::16, 8::16].astype(int)
    np.testing.assert_allclose(centres, blocks, atol=6)


def test_transparency_becomes_white(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    # a fifth of the colour and four fifths of white: 0.2 * 200 + 0.8 * 255 = 244
    expected = [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]]
    np.testing.assert_allclose(pixels(tmp_path / "rgba.png"), expected, atol=1)
    Image.fromarray(rgba[..., [0, 3]]).save(tmp_path / "la.png")
    np.testing.assert_allclose(pixels(tmp_path / "la.png")[0, :, 1], [200, 255, 244], atol=1)


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_transparent_palette_entries_are_white(tmp_path: Path, ending: str) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert image.mode == "P"
    image.save(tmp_path / f"a.{ending}", transparency=1)
    np.testing.assert_array_equal(pixels(tmp_path / f"a.{ending}"), [[[10, 20, 30], [255] * 3, [70, 80, 90]]])


def test_a_transparent_colour_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(tmp_path / "a.png", transparency=(4, 5, 6))
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), [[[1, 2, 3], [255] * 3]])


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), [[[0] * 3, [255] * 3]])


@pytest.mark.parametrize("ending", ["jpg", "tiff"])
def test_cmyk_becomes_rgb(tmp_path: Path, ending: str) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / f"a.{ending}")
    np.testing.assert_allclose(pixels(tmp_path / f"a.{ending}")[8, 8], (255, 0, 0), atol=3)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tiff"])
def test_the_first_frame_of_an_animation(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / f"a.{ending}") as image:
        assert getattr(image, "n_frames", 1) == 3
    np.testing.assert_allclose(pixels(tmp_path / f"a.{ending}")[8, 8], (255, 0, 0), atol=3)


# More than 8 bits

RAMP = np.arange(65536).reshape(256, 256)
SCALED = np.rint(RAMP / 257)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP.astype("<u2"), SCALED),
        (RAMP.astype(">u2"), SCALED),
        (RAMP.astype(np.int32), SCALED),
        (RAMP.astype(np.float32), SCALED),
        ((RAMP / 65535).astype(np.float32), SCALED),
        ((RAMP // 256).astype(np.int32), RAMP // 256),
        ((RAMP // 256).astype(np.float32), RAMP // 256),
        # no usual range: the darkest is black and the brightest white
        ((RAMP - 40000).astype(np.int32), SCALED),
        ((RAMP * 1000).astype(np.int32), SCALED),
        (np.full((4, 4), -3.0, np.float32), np.zeros((4, 4))),
    ],
)
def test_deep_grey_is_scaled_not_cut(tmp_path: Path, values: np.ndarray, expected: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.tiff")
    result = pixels(tmp_path / "a.tiff")
    np.testing.assert_allclose(result[..., 0], expected, atol=1)
    assert (result[..., :1] == result).all()
    assert values.size < 1000 or len(np.unique(result)) >= 250


def test_16_bit_png(tmp_path: Path) -> None:
    ramp = RAMP.astype(">u2")
    (tmp_path / "grey.png").write_bytes(png(256, 256, 16, 0, b"".join(b"\0" + row.tobytes() for row in ramp)))
    np.testing.assert_allclose(pixels(tmp_path / "grey.png")[..., 2], SCALED, atol=1)
    rgb = np.stack([ramp, ramp[::-1], ramp.T], axis=2).astype(">u2")
    (tmp_path / "rgb.png").write_bytes(png(256, 256, 16, 2, b"".join(b"\0" + row.tobytes() for row in rgb)))
    np.testing.assert_allclose(pixels(tmp_path / "rgb.png"), np.stack([SCALED, SCALED[::-1], SCALED.T], axis=2), atol=1)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff: .* not finite"):
        open_image(tmp_path / "a.tiff")


# What is refused


@pytest.mark.parametrize("size", [(8001, 8000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_huge_pictures_are_refused_by_their_header(tmp_path: Path, size: tuple[int, int]) -> None:
    noise().save(tmp_path / "first.png")
    open_image(tmp_path / "first.png")  # the first picture of a process loads the decoders
    (tmp_path / "a.png").write_bytes(png(*size, 8, 2, b""))
    start = time.process_time()
    with pytest.raises(UserError, match=r"a\.png: has more than 64,000,000 pixels"):
        open_image(tmp_path / "a.png")
    assert time.process_time() - start < 0.05


def test_the_largest_size_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(8000, 8000, 1, 0, b""))
    with pytest.raises(UserError, match="cannot be read"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
@pytest.mark.parametrize("ending", ENDINGS)
def test_truncated_files_are_errors(tmp_path: Path, ending: str, share: float, door: Callable) -> None:
    path = tmp_path / f"a.{ending}"
    noise().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=rf"a\.{ending}: "):
        door(path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", b"\xff\xd8"])
def test_what_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg: not a picture of a known kind \(JPEG, PNG, WEBP, GIF, BMP, TIFF\)"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("ending", ["eps", "ppm", "ico", "pdf", "tga"])
def test_other_kinds_are_not_opened(tmp_path: Path, ending: str) -> None:
    noise().save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg: not a picture of a known kind"):
        open_image(tmp_path / "a.jpg")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing.jpg", tmp_path / "pipe"):
        for door in DOORS:
            with pytest.raises(UserError, match="there is no such image file"):
                door(path)
        with pytest.raises(OSError):  # noqa: PT011 — by the kind of what is there
            ends(path)


# Quick decoding


def test_jpegs_are_decoded_at_reduced_size(tmp_path: Path) -> None:
    noise(480, 640).save(tmp_path / "a.jpg")
    noise(480, 640).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.jpg").size == (640, 480)
    assert open_image(tmp_path / "a.jpg", min_side=241).size == (640, 480)
    assert open_image(tmp_path / "a.jpg", min_side=240).size == (320, 240)
    assert open_image(tmp_path / "a.jpg", min_side=1).size == (80, 60)
    assert open_image(tmp_path / "a.png", min_side=1).size == (640, 480)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """The pictures that were decoded, in order."""
    pictures: list[Image.Image] = []
    decode = images._decode
    monkeypatch.setattr(images, "_decode", lambda image: pictures.append(decode(image)) or pictures[-1])
    return pictures


@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize(("size", "scale"), [(241, 1), (240, 2), (121, 2), (120, 4), (61, 4), (60, 8), (1, 8)])
def test_a_jpeg_is_decoded_no_larger_than_its_crop_needs(
    tmp_path: Path, decoded: list[Image.Image], size: int, scale: int, crop: str
) -> None:
    noise(480, 640).save(tmp_path / "a.jpg")
    square = open_square(tmp_path / "a.jpg", spec(size, crop=crop))
    assert decoded[-1].size == (640 // scale, 480 // scale)
    np.testing.assert_array_equal(square, to_square(decoded[-1], spec(size, crop=crop)))
    in_memory = open_square(ImageBytes((tmp_path / "a.jpg").read_bytes(), "a"), spec(size, crop=crop))
    np.testing.assert_array_equal(square, in_memory)
    noise(480, 640).save(tmp_path / "a.png")
    open_square(tmp_path / "a.png", spec(size, crop=crop))
    assert decoded[-1].size == (640, 480)


@pytest.mark.parametrize("size", [40, 64, 150, 220, 330])
def test_a_random_cut_has_as_many_pixels_as_are_wanted(tmp_path: Path, decoded: list[Image.Image], size: int) -> None:
    picture = coordinates(637, 479)
    picture.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    for i in range(40):
        exact = to_square(picture, spec(size), np.random.default_rng([7, i]))
        square = open_square(tmp_path / "a.jpg", spec(size), np.random.default_rng([7, i]))
        scale = round(637 / decoded[-1].width)
        assert scale in (1, 2, 4, 8)
        # the same cut, to half a pixel of what was decoded: 255 / 479 / 2 of the scale, and what rounding and JPEG take
        difference = np.abs(square.astype(int) - exact)[:2, 2:-2, 2:-2]
        assert difference.max() <= 0.27 * scale + 3
        # of its shorter side no more than the half could do without
        shares = crop_of(exact)
        side = min(637 * shares[0], 479 * shares[1])
        assert scale == 1 or side / scale > size - 5
        assert scale == 8 or side / (2 * scale) < size + 5


@pytest.mark.parametrize("orientation", STORED)
def test_a_rotated_jpeg_is_cropped_after_rotation(tmp_path: Path, decoded: list[Image.Image], orientation: int) -> None:
    seen = coordinates(100, 320)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = STORED[orientation](np.asarray(seen))
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    scales = set()
    for i in range(20):
        exact = to_square(seen, spec(45), np.random.default_rng([7, i]))
        square = open_square(tmp_path / "a.jpg", spec(45), np.random.default_rng([7, i]))
        scales.add(round(100 / decoded[-1].width))
        # a pixel of the decoded width is 2.6 of 255 where the whole is decoded, and 5.1 where half is
        assert np.abs(square.astype(int) - exact)[:2, 2:-2, 2:-2].max() <= 6
    assert scales == {1, 2}


# To a square


def test_the_centre_is_cut_or_the_whole_is_squashed() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("lime", (100, 0, 200, 100))
    image.paste("blue", (200, 0, 300, 100))
    cut = to_square(image, spec(50))
    assert cut.dtype == np.uint8
    assert cut.shape == (3, 50, 50)
    assert (cut[1, :, 3:-3] == 255).all()
    assert (cut[0, :, 3:-3] == 0).all()
    squashed = to_square(image, spec(30, crop="squash"))
    for column, channel in ((5, 0), (15, 1), (25, 2)):
        np.testing.assert_array_equal(squashed[:, 15, column], np.eye(3)[channel] * 255)
    upright = to_square(image.transpose(Image.Transpose.ROTATE_90), spec(50))
    assert (upright[1, 3:-3] == 255).all()


def test_a_picture_of_the_right_size_is_unchanged() -> None:
    image = noise()
    np.testing.assert_array_equal(to_square(image, spec(64)), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(480, 360), (120, 90), (40, 30)])
def test_close_to_torchvision(interpolation: str, width: int, height: int) -> None:
    low = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC)
    # the resized picture is exactly 80 x 60 and its centre starts at a whole pixel
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    resized = reference.resize(tensor, [60], reference.InterpolationMode(interpolation), antialias=True)
    expected = reference.center_crop(resized, [60, 60]).numpy().astype(int)
    difference = np.abs(to_square(image, spec(60, interpolation=interpolation)).astype(int) - expected)
    inside = difference[:, :, 3:-3]  # torchvision's filter sees the columns beside the crop too
    assert inside.mean() < 1
    assert inside.max() <= 4
    squashed = reference.resize(tensor, [60, 60], reference.InterpolationMode(interpolation), antialias=True)
    ours = to_square(image, spec(60, interpolation=interpolation, crop="squash"))
    assert np.abs(ours.astype(int) - squashed.numpy()).mean() < 1


def coordinates(width: int, height: int) -> Image.Image:
    """Red counts the columns and green the rows, from 0 to 255 each."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    picture = np.stack([*np.meshgrid(x, y), np.zeros((height, width))], axis=2)
    return Image.fromarray(picture.round().astype(np.uint8))


def crop_of(square: np.ndarray) -> tuple[float, float]:
    """Width and height of the crop as shares of the picture, read off the middle half of the coordinates."""
    size = square.shape[1]
    quarter, three = size // 4, 3 * size // 4
    red, green = (square[:2].astype(float)).mean(axis=1)[0], square[1].astype(float).mean(axis=1)
    scale = size / (three - quarter) / 255
    return (red[three] - red[quarter]) * scale, (green[three] - green[quarter]) * scale


@pytest.mark.parametrize(
    ("width", "height", "crop"), [(400, 400, "center"), (480, 360, "center"), (600, 300, "squash")]
)
def test_random_crops_keep_to_their_limits(width: int, height: int, crop: str) -> None:
    image = coordinates(width, height)
    crops = np.array(
        [crop_of(to_square(image, spec(64, crop=crop), np.random.default_rng([7, i]))) for i in range(300)]
    )
    areas = crops[:, 0] * crops[:, 1]
    aspects = crops[:, 0] / crops[:, 1] * (width / height if crop == "center" else 1)
    # nothing is mirrored or turned: both coordinates grow
    assert (crops > 0).all()
    assert areas.min() > 0.48
    assert areas.max() < 1.02
    assert aspects.min() > 0.73
    assert aspects.max() < 1.37
    # and they use the room they have
    assert areas.min() < 0.56
    assert areas.max() > 0.9
    assert aspects.min() < 0.8
    assert aspects.max() > 1.25


@pytest.mark.parametrize(("width", "height"), [(900, 225), (225, 900)])
def test_random_crops_of_long_pictures_are_not_distorted(width: int, height: int) -> None:
    image = coordinates(width, height)
    for i in range(50):
        crop = crop_of(to_square(image, spec(64), np.random.default_rng([7, i])))
        assert 0.72 < crop[0] / crop[1] * width / height < 1.38
        # the whole of the short side, as there is no room for half of the area otherwise
        assert max(crop) == pytest.approx(1, abs=0.04)


def test_random_crops_are_keyed() -> None:
    image = coordinates(480, 360)
    first, again, other = (to_square(image, spec(32), np.random.default_rng(key)) for key in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 2)])
@pytest.mark.parametrize("crop", ["center", "squash"])
def test_tiny_and_thin_pictures(size: tuple[int, int], crop: str) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    for seed in (None, *range(20)):
        square = to_square(image, spec(16, crop=crop), None if seed is None else np.random.default_rng(seed))
        assert (square == np.array([10, 20, 30])[:, None, None]).all()


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs shared/coco_mini")
def test_real_photos() -> None:
    for path in sorted(COCO_MINI.iterdir())[:10]:
        whole = to_square(open_image(path), spec(96)).astype(int)
        quick = open_square(path, spec(96)).astype(int)
        assert whole.std() > 10
        # the cut falls on whole pixels of the decoded picture: up to half a pixel of the square beside where it was
        assert np.abs(whole - quick).mean() < 5


@pytest.mark.parametrize(("orientation", "size"), [(1, (30, 20)), (3, (30, 20)), (6, (20, 30)), (8, (20, 30))])
def test_facts_are_those_of_the_picture_as_shown(tmp_path, orientation, size):
    file = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.DateTime] = "2020:01:01 00:00:00"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:31 12:34:56"
    Image.new("RGB", (30, 20)).save(file, exif=exif)
    assert image_facts(file) == ImageFacts(*size, "2024-05-31T12:34:56")
    assert open_image(file).size == size


@pytest.mark.parametrize(
    ("written", "found"),
    [("2020:01:01 00:00:00", "2020-01-01T00:00:00"), ("0000:00:00 00:00:00", None), ("yesterday", None), (None, None)],
)
def test_a_date_that_is_none_is_left_out(tmp_path, written, found):
    exif = Image.Exif()
    if written is not None:
        exif[ExifTags.Base.DateTime] = written
    Image.new("RGB", (3, 2)).save(tmp_path / "a.jpg", exif=exif)
    assert image_facts(tmp_path / "a.jpg").taken == found


def test_facts_of_what_is_no_picture_are_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="not a picture"):
        image_facts(tmp_path / "a.jpg")
