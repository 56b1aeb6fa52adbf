"""The one door through which a picture enters: from a file of any usual kind to square uint8 pixels."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch.nn import functional as F

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import require_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow knows some 40 others, of which one starts an external program (EPS)."""

MAX_PIXELS = 64_000_000
"""Larger pictures are refused by their header: a file of some kilobytes can unpack to gigabytes."""

BACKGROUND = (255, 255, 255, 255)
"""White, on which transparent pictures are laid."""

END_BYTES = 4096
"""What `ends` reads of a picture at its beginning and at its end."""

CROP_AREA = (0.5, 1.0)
"""Share of the picture that a random crop keeps."""

CROP_ASPECT = (3 / 4, 4 / 3)
"""Width over height of a random crop; relative to the picture's where the encoder squashes."""

_TURNED = (5, 6, 7, 8)
"""EXIF orientations of pictures that lie on their side."""

_Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class ImageBytes:
    """An encoded picture that lies inside another file: a row of a table, a member of an archive."""

    data: bytes = field(repr=False)
    name: str
    """Where it lies, for messages."""


class HugeImageError(UserError):
    """A picture has more than `MAX_PIXELS`."""


def open_image(source: Path | ImageBytes, min_side: int | None = None) -> Image.Image:
    """Decode a picture as it is meant to be seen.

    Orientation from EXIF is applied; transparency is laid on white; grey, palette and CMYK pictures become RGB; 16-bit
    and floating-point ones are scaled to 8 bits; of an animation the first frame is taken.

    Args:
        source: A JPEG, PNG, WebP, GIF, BMP or TIFF file, whatever its name ends with, or the bytes of one.
        min_side: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where both sides stay at least this long, which is
            quicker. None: at full size.

    Returns:
        The picture, in mode RGB.

    Raises:
        UserError: If the file is missing, is no such picture, is damaged or cut short, or has more than `MAX_PIXELS`.
    """
    with _opened(source) as image:
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        return _decode(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture that is open already, as `open_image` gives one; what is given stays as it is.

    Raises:
        UserError: If it cannot be read, or has more than `MAX_PIXELS`.
    """
    if image.width * image.height > MAX_PIXELS:
        raise HugeImageError(f"{image!r}: has more than {MAX_PIXELS:,} pixels; make the picture smaller")
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # as in `_opened`
        raise UserError(f"{image!r}: the picture cannot be read: {error or type(error).__name__}") from error


def image_size(source: Path | ImageBytes) -> tuple[int, int]:
    """Width and height of a picture as its header gives them, before its orientation is applied; nothing is decoded.

    Raises:
        UserError: As `open_image`, as far as a header tells.
    """
    with _opened(source) as image:
        return image.size


def ends(source: Path | ImageBytes) -> bytes:
    """Size, beginning and end of an encoded picture: what tells it from others without reading it.

    Raises:
        OSError: If the file cannot be read.
    """
    if isinstance(source, ImageBytes):
        return ends_of_part(io.BytesIO(source.data), 0, len(source.data))
    require_regular(source)
    with source.open("rb", buffering=0) as file:
        return ends_of_part(file, 0, os.fstat(file.fileno()).st_size)


def ends_of_part(file: Any, start: int, size: int) -> bytes:
    """What `ends` gives of a picture that lies inside an open file, from byte `start` on."""
    length = min(size, END_BYTES)
    parts = []
    for place in (start, start + size - length):
        file.seek(place)
        parts.append(bytes(file.read(length)))
    return b"%d " % size + b"".join(parts)


def open_square(
    source: Path | ImageBytes, spec: PixelSpec, rng: np.random.Generator | None = None
) -> UInt8[np.ndarray, "3 S S"]:
    """Read a picture as an encoder wants it.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves what is cut out of it as many pixels as the
    encoder wants, which is quicker. The cut is drawn beforehand, from the header's size.

    Args:
        source: As in `open_image`.
        spec: As in `to_square`.
        rng: As in `to_square`.

    Returns:
        Pixels in 0..255, (3, S, S).

    Raises:
        UserError: As `open_image`.
    """
    with _opened(source) as image:
        if not isinstance(image, JpegImageFile):
            return to_square(_decode(image), spec, rng)
        box = _box(_seen_size(image), spec, rng)
        room = min(box[2] - box[0], box[3] - box[1]) // spec.size
        scale = next(scale for scale in (8, 4, 2, 1) if scale <= max(1, room))
        image.draft(None, (image.width // scale, image.height // scale))
        # edges to the nearest pixel
        left, top, right, bottom = ((edge + scale // 2) // scale for edge in box)
        return _cut(_decode(image), (left, top, right, bottom), spec)


def to_square(
    image: Image.Image, spec: PixelSpec, rng: np.random.Generator | None = None
) -> UInt8[np.ndarray, "3 S S"]:
    """Cut and resize a picture to what an encoder wants.

    Args:
        image: An RGB picture of any size.
        spec: The encoder's size, filter and way to make a picture square.
        rng: Draws a random crop for training: `CROP_AREA` of the picture (less where a long one leaves no room) with
            `CROP_ASPECT` (beside the picture's own where `spec.crop` is squash), resized to the square. It is never
            mirrored, as captions say left and right. None: the picture as evaluation sees it.

    Returns:
        Pixels in 0..255, (3, S, S).
    """
    return _cut(image, _box(image.size, spec, rng), spec)


@contextmanager
def _opened(source: Path | ImageBytes) -> Iterator[Image.Image]:
    """A picture of which the header is read; whatever goes wrong with it from here on is a `UserError`."""
    name = source.name if isinstance(source, ImageBytes) else str(source)
    # a pipe in the place of a file would block for ever
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
        # on damaged files the decoders raise nearly anything: SyntaxError, struct.error, IndexError, OverflowError...
        raise UserError(f"{name}: the picture cannot be read: {error or type(error).__name__}") from error


def _seen_size(image: JpegImageFile) -> tuple[int, int]:
    """Width and height as EXIF has the picture seen."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
    return (image.height, image.width) if turned else image.size


def _cut(image: Image.Image, box: _Box, spec: PixelSpec) -> UInt8[np.ndarray, "3 S S"]:
    # torch resizes bytes as they are, in a third of Pillow's time
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
    # the conversion copies whatever the mode
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale a grey picture of 16 or 32 bits, where Pillow's own conversion would cut all bright values to white."""
    values = np.asarray(image).astype(np.float32)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else _value_range(values, image.mode)
    return Image.fromarray(np.rint((values - low) * (255.0 / (high - low))).astype(np.uint8))


def _value_range(values: np.ndarray, mode: str) -> tuple[float, float]:
    """The values that stand for black and white: the first usual range that holds all, or else the picture's own."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise ValueError("it holds values that are not finite numbers")
    for usual in (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= usual:
            return 0.0, usual
    return low, high if high > low else low + 1


def _box(size: tuple[int, int], spec: PixelSpec, rng: np.random.Generator | None) -> _Box:
    """What is cut out of a picture of some size: for training, or without `rng` as evaluation sees it."""
    if rng is not None:
        return _random_box(size, spec, rng)
    width, height = size
    if spec.crop == "squash":
        return 0, 0, width, height
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _random_box(size: tuple[int, int], spec: PixelSpec, rng: np.random.Generator) -> _Box:
    width, height = float(size[0]), float(size[1])
    area = rng.uniform(*CROP_AREA)
    aspect = np.exp(rng.uniform(*np.log(CROP_ASPECT)))
    # where evaluation squashes the whole picture, a crop of the picture's own shape is squashed just as much
    unit = (width, height) if spec.crop == "squash" else ((width * height) ** 0.5,) * 2
    box_width, box_height = unit[0] * (area * aspect) ** 0.5, unit[1] * (area / aspect) ** 0.5
    fit = min(1.0, width / box_width, height / box_height)
    kept_width = min(size[0], max(1, round(box_width * fit)))
    kept_height = min(size[1], max(1, round(box_height * fit)))
    left = int(rng.integers(size[0] - kept_width + 1))
    top = int(rng.integers(size[1] - kept_height + 1))
    return left, top, left + kept_width, top + kept_height
