"""Reads pictures: from a file of any common format to square uint8 pixels. All pictures are opened here."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch.nn import functional as F

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.image_views import PLAIN, ImageView
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import require_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow supports some 40 others, one of which (EPS) starts an external program."""

MAX_PIXELS = 64_000_000
"""Larger pictures are refused by their header, as a file of a few kilobytes can unpack to gigabytes."""

BACKGROUND = (255, 255, 255, 255)
"""White background for transparent pictures."""

END_BYTES = 4096
"""Bytes that `ends` reads at the beginning and at the end of a picture."""

CROP_AREA = (0.5, 1.0)
"""Range of the area of a random crop, as a share of the picture."""

CROP_ASPECT = (3 / 4, 4 / 3)
"""Range of width over height of a random crop; relative to the picture's own if the encoder squashes."""

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

_Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class ImageBytes:
    """An encoded picture from inside another file, such as a table or an archive."""

    data: bytes = field(repr=False)
    name: str
    """Its origin, for messages."""


class HugeImageError(UserError):
    """A picture has more than `MAX_PIXELS`."""


def open_image(source: Path | ImageBytes, min_side: int | None = None) -> Image.Image:
    """Decodes a picture to mode RGB.

    Applies the EXIF orientation, puts transparent pictures on white, converts grey, palette and CMYK pictures, scales
    16-bit and floating-point ones to 8 bits, and takes the first frame of an animation.

    Args:
        source: A JPEG, PNG, WebP, GIF, BMP or TIFF file, with any extension, or its bytes.
        min_side: Decode JPEGs at 1/2, 1/4 or 1/8 of their size while both sides keep this length, which is faster;
            None decodes at full size.

    Raises:
        UserError: If the file is missing, of another format, damaged, truncated, or larger than `MAX_PIXELS`.
    """
    with _opened(source) as image:
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        return _decode(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a Pillow image as `open_image` does, without changing it.

    Raises:
        UserError: If it cannot be read, or is larger than `MAX_PIXELS`.
    """
    if image.width * image.height > MAX_PIXELS:
        raise HugeImageError(f"{image!r}: has more than {MAX_PIXELS:,} pixels; make the picture smaller")
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # as in `_opened`
        raise UserError(f"{image!r}: the picture cannot be read: {error or type(error).__name__}") from error


def image_size(source: Path | ImageBytes) -> tuple[int, int]:
    """Width and height from the header of a picture, before its EXIF orientation is applied.

    Raises:
        UserError: If the header shows what `open_image` refuses.
    """
    with _opened(source) as image:
        return image.size


@dataclass(frozen=True)
class ImageFacts:
    """What the header of a picture says.

    Args:
        width: Width as shown, after the EXIF orientation.
        height: Height as shown.
        taken: When it was taken by its EXIF data, such as `2024-05-31T12:00:00`.
    """

    width: int
    height: int
    taken: str | None


def image_facts(source: Path | ImageBytes) -> ImageFacts:
    """Size and date from the header of a picture, without decoding it.

    Raises:
        UserError: If the header shows what `open_image` refuses.
    """
    with _opened(source) as image:
        exif = image.getexif()
        turned = exif.get(ExifTags.Base.Orientation, 1) in _TURNED
        width, height = image.size[::-1] if turned else image.size
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        dates = (inner.get(ExifTags.Base.DateTimeOriginal), exif.get(ExifTags.Base.DateTime))
        return ImageFacts(width, height, next(filter(None, map(_iso_date, dates)), None))


def _iso_date(text: Any) -> str | None:
    """An EXIF date, `2024:05:31 12:00:00`, in ISO 8601; None if it is not one, such as `0000:00:00 00:00:00`."""
    try:
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def ends(source: Path | ImageBytes) -> bytes:
    """Size, first and last bytes of an encoded picture, which identify it without reading it whole.

    Raises:
        OSError: If the file cannot be read.
    """
    if isinstance(source, ImageBytes):
        return ends_of_part(io.BytesIO(source.data), 0, len(source.data))
    require_regular(source)
    with source.open("rb", buffering=0) as file:
        return ends_of_part(file, 0, os.fstat(file.fileno()).st_size)


def ends_of_part(file: Any, start: int, size: int) -> bytes:
    """Like `ends`, for a picture inside an open file, from byte `start`."""
    length = min(size, END_BYTES)
    parts = []
    for place in (start, start + size - length):
        file.seek(place)
        parts.append(bytes(file.read(length)))
    return b"%d " % size + b"".join(parts)


def open_square(
    source: Path | ImageBytes, spec: PixelSpec, rng: np.random.Generator | None = None, view: ImageView = PLAIN
) -> UInt8[np.ndarray, "3 S S"]:
    """`to_square` of `open_image`, faster.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the crop, which is drawn from the header's size, keeps as many
    pixels as the encoder takes.

    Raises:
        UserError: As `open_image`.
    """
    with _opened(source) as image:
        if not isinstance(image, JpegImageFile):
            return to_square(_decode(image), spec, rng, view)
        box = _box(_seen_size(image), spec, rng, view)
        spec = view.spec(spec)
        room = min(box[2] - box[0], box[3] - box[1]) // spec.size
        scale = next(scale for scale in (8, 4, 2, 1) if scale <= max(1, room))
        image.draft(None, (image.width // scale, image.height // scale))
        # edges to the nearest pixel
        left, top, right, bottom = ((edge + scale // 2) // scale for edge in box)
        return view.orient(_cut(_decode(image), (left, top, right, bottom), spec))


def to_square(
    image: Image.Image, spec: PixelSpec, rng: np.random.Generator | None = None, view: ImageView = PLAIN
) -> UInt8[np.ndarray, "3 S S"]:
    """Crops and resizes a picture for an encoder.

    Args:
        image: An RGB picture of any size.
        spec: Input of the encoder: size, filter and how pictures become square.
        rng: Draws a random crop for training with `CROP_AREA` (less if it does not fit) and `CROP_ASPECT`. Pictures are
            never mirrored, as captions say left and right. None prepares the picture for evaluation.
        view: What to show of the picture without `rng`.

    Returns:
        Pixels in 0..255, (3, S, S).
    """
    return view.orient(_cut(image, _box(image.size, spec, rng, view), view.spec(spec)))


@contextmanager
def _opened(source: Path | ImageBytes) -> Iterator[Image.Image]:
    """Opens a picture; every error within the context becomes a `UserError`."""
    name = source.name if isinstance(source, ImageBytes) else str(source)
    # opening a named pipe would block forever
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"{name}: there is no such image file")
    try:
        file = io.BytesIO(source.data) if isinstance(source, ImageBytes) else source
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except Image.DecompressionBombError as error:
        raise HugeImageError(f"{name}: has more than {MAX_PIXELS:,} pixels; make the picture smaller") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a picture of a known kind ({', '.join(FORMATS)})") from error
    except Exception as error:
        # decoders raise almost anything on damaged files: SyntaxError, struct.error, IndexError, OverflowError...
        raise UserError(f"{name}: the picture cannot be read: {error or type(error).__name__}") from error


def _seen_size(image: JpegImageFile) -> tuple[int, int]:
    """Width and height after the EXIF orientation."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
    return (image.height, image.width) if turned else image.size


def _cut(image: Image.Image, box: _Box, spec: PixelSpec) -> UInt8[np.ndarray, "3 S S"]:
    # torch resizes uint8 in a third of Pillow's time
    pixels = torch.from_numpy(np.array(image.crop(box))).permute(2, 0, 1)
    if pixels.shape[1:] != (spec.size, spec.size):
        pixels = F.interpolate(pixels[None], (spec.size, spec.size), mode=spec.interpolation, antialias=True)[0]
    return np.ascontiguousarray(pixels.numpy())


def _decode(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, BACKGROUND), picture).convert("RGB")
    # `convert` would copy
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scales a grey picture of 16 or 32 bits; Pillow's own conversion would clip bright values to white."""
    values = np.asarray(image).astype(np.float32)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else _value_range(values, image.mode)
    return Image.fromarray(np.rint((values - low) * (255.0 / (high - low))).astype(np.uint8))


def _value_range(values: np.ndarray, mode: str) -> tuple[float, float]:
    """Values of black and white: the first common range that contains all values, or else their own range."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise ValueError("it holds values that are not finite numbers")
    for usual in (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= usual:
            return 0.0, usual
    return low, high if high > low else low + 1


def _box(size: tuple[int, int], spec: PixelSpec, rng: np.random.Generator | None, view: ImageView) -> _Box:
    """The box to crop from a picture: a random one for training, or that of the view without `rng`."""
    return view.box(size, spec.crop) if rng is None else _random_box(size, spec, rng)


def _random_box(size: tuple[int, int], spec: PixelSpec, rng: np.random.Generator) -> _Box:
    width, height = float(size[0]), float(size[1])
    area = rng.uniform(*CROP_AREA)
    aspect = np.exp(rng.uniform(*np.log(CROP_ASPECT)))
    # if evaluation squashes pictures, crops keep the picture's aspect ratio and are squashed equally
    unit = (width, height) if spec.crop == "squash" else ((width * height) ** 0.5,) * 2
    box_width, box_height = unit[0] * (area * aspect) ** 0.5, unit[1] * (area / aspect) ** 0.5
    fit = min(1.0, width / box_width, height / box_height)
    kept_width = min(size[0], max(1, round(box_width * fit)))
    kept_height = min(size[1], max(1, round(box_height * fit)))
    left = int(rng.integers(size[0] - kept_width + 1))
    top = int(rng.integers(size[1] - kept_height + 1))
    return left, top, left + kept_width, top + kept_height
