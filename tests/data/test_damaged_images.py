"""Pictures damaged at random: each is refused with our own error or decoded whole, whatever the damage."""

import contextlib
import io
import struct
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.images import MAX_PIXELS, ImageBytes, open_image, open_square
from ascl_lightning.errors import UserError

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Numbers at which sizes, offsets and counts of a header overflow."""


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def originals() -> dict[str, bytes]:
    """A small picture in every kind of file that is opened, and in the ways in which decoders differ."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    clear = noise.convert("RGBA")
    clear.putalpha(100)
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [Image.new("RGB", (16, 16), "red")]}
    return {
        "jpeg": encode(noise, "JPEG", exif=exif),
        "jpeg, progressive": encode(noise, "JPEG", progressive=True),
        "jpeg, cmyk": encode(noise.convert("CMYK"), "JPEG"),
        "png": encode(noise, "PNG", exif=exif),
        "png, palette": encode(noise.quantize(8), "PNG", transparency=1),
        "png, 16 bits": encode(deep, "PNG"),
        "png, animated": encode(noise, "PNG", **frames),
        "webp": encode(clear, "WEBP"),
        "webp, lossless": encode(noise, "WEBP", lossless=True, exif=exif),
        "webp, animated": encode(noise, "WEBP", **frames),
        "gif": encode(noise, "GIF", transparency=0, **frames),
        "bmp": encode(noise, "BMP"),
        "bmp, palette": encode(noise.quantize(8), "BMP"),
        "tiff": encode(noise, "TIFF", exif=exif),
        "tiff, lzw": encode(noise, "TIFF", compression="tiff_lzw"),
        "tiff, jpeg": encode(noise, "TIFF", compression="jpeg"),
        "tiff, deflate": encode(noise, "TIFF", compression="tiff_adobe_deflate"),
        "tiff, group 4": encode(noise.convert("1"), "TIFF", compression="group4"),
        "tiff, 16 bits": encode(deep, "TIFF"),
        "tiff, float": encode(Image.fromarray(rng.random((16, 16), dtype=np.float32)), "TIFF"),
    }


Damage = Callable[[bytes, bytes, np.random.Generator], bytes]
"""Makes a damaged file of a file and another one."""


def flip_bytes(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 9)):
        damaged[place] = rng.integers(256)
    return bytes(damaged)


def edit_header(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return flip_bytes(data[:64], other, rng) + data[64:]


def set_number(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """An extreme number of two or four bytes, more often in the header."""
    kind = str(rng.choice([">H", "<H", ">I", "<I"]))
    number = struct.pack(kind, int(rng.choice(EXTREMES)) % 256 ** struct.calcsize(kind))
    place = rng.integers(rng.choice([80, len(data)]) - len(number))
    return data[:place] + number + data[place + len(number) :]


def cut(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def zero_run(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(rng.integers(len(data) + 1, size=2))
    return data[:start] + bytes(end - start) + data[end:]


def repeat_run(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(rng.integers(len(data) + 1, size=2))
    return data[:end] + data[start:]


DAMAGES = (flip_bytes, edit_header, set_number, cut, splice, zero_run, repeat_run)
FILES = originals()
DAMAGED = 10_000
SQUARE = PixelSpec(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_ten_thousand_damaged_files_raise_our_error_alone(damage: Damage) -> None:
    files = list(FILES.values())
    outcomes: Counter[str] = Counter()
    for number in range(DAMAGED // len(DAMAGES) + 1):
        rng = np.random.default_rng([DAMAGES.index(damage), number])
        data = damage(files[number % len(files)], files[rng.integers(len(files))], rng)
        outcomes[outcome(data, as_square=number % 2 == 1)] += 1  # every other one as training asks for it
    # the damage is neither so light nor so heavy that nothing is tried; of a file that was cut hardly anything is left
    assert outcomes.keys() <= {"refused", "decoded"}
    assert outcomes["refused"] > 50
    assert outcomes["decoded"] > 50 or damage is cut


def outcome(data: bytes, as_square: bool) -> str:
    try:
        if as_square:
            assert open_square(ImageBytes(data, "here"), SQUARE).shape == (3, 8, 8)
        else:
            image = open_image(ImageBytes(data, "here"))
            assert image.mode == "RGB"
            assert image.width * image.height <= MAX_PIXELS
    except UserError as error:
        return "refused" if str(error).startswith("here: ") else f"not named: {error}"
    return "decoded"


def with_size(data: bytes, place: int, kind: str, width: int, height: int) -> bytes:
    size = struct.pack(kind, width, height)
    return data[:place] + size + data[place + len(size) :]


def tiff_with_size(width: int, height: int) -> bytes:
    """Whose directory holds its size as long numbers."""
    data = FILES["tiff"]
    directory = struct.unpack_from("<I", data, 4)[0]
    for entry in range(directory + 2, directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0], 12):
        tag = struct.unpack_from("<H", data, entry)[0]
        if tag in (256, 257):
            field = struct.pack("<HHII", tag, 4, 1, width if tag == 256 else height)
            data = data[:entry] + field + data[entry + 12 :]
    return data


BOMBS = {
    "jpeg": with_size(FILES["jpeg"], FILES["jpeg"].index(b"\xff\xc0") + 5, ">HH", 65_500, 65_500),
    # the canvas, less one each, in three bytes
    "webp": with_size(FILES["webp, animated"], 24, "<HxH", 65_533, 65_533),
    "gif": with_size(FILES["gif"], 6, "<HH", 65_535, 65_535),
    "bmp": with_size(FILES["bmp"], 18, "<ii", 60_000, 60_000),
    "tiff": tiff_with_size(60_000, 60_000),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BOMBS)
def test_every_kind_of_bomb_is_refused_by_its_header(kind: str) -> None:
    with contextlib.suppress(UserError):
        open_image(ImageBytes(FILES[kind][:40], "first"))  # the first picture of a process loads the decoders
    start = time.process_time()
    with pytest.raises(UserError, match="here: has more than 64,000,000 pixels"):
        open_image(ImageBytes(BOMBS[kind], "here"))
    assert time.process_time() - start < 0.05
