"""Pictures of the gallery, made smaller and kept in memory, and uploaded pictures."""

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ascl_lightning.data.images import HugeImageError, ImageBytes, image_size, open_image

THUMBNAIL_SIDE = 384
"""Longer side of a thumbnail in pixels: twice the width on the page, for dense screens."""
PICTURE_SIDE = 2_048
_QUALITY = {THUMBNAIL_SIDE: 80, PICTURE_SIDE: 88}


@dataclass(frozen=True)
class Rendition:
    """A picture as JPEG, upright and without metadata."""

    etag: str
    jpeg: bytes


class Renditions:
    """Makes renditions and keeps the latest ones. May be called from several threads.

    Args:
        max_bytes: Memory for what is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._kept: OrderedDict[str, Rendition] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path, number: int, side: int) -> Rendition:
        """The rendition of a file; a file that has changed since gets a new one.

        Args:
            path: The file.
            number: Id of the picture.
            side: Longer side in pixels; smaller pictures keep their size.

        Raises:
            OSError: If the file does not exist.
            UserError: If the file is no picture that can be read.
        """
        about = path.stat()
        etag = f'"{number:x}-{about.st_mtime_ns:x}-{about.st_size:x}-{side:x}"'
        with self._lock:
            if etag in self._kept:
                self._kept.move_to_end(etag)
                return self._kept[etag]
        made = Rendition(etag, _jpeg(open_image(path, min_side=side), side))
        with self._lock:
            if etag not in self._kept:
                self._kept[etag] = made
                self._bytes += len(made.jpeg)
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1].jpeg)
        return made


def open_upload(data: bytes, max_pixels: int) -> Image.Image:
    """Decodes an uploaded picture, upright and RGB.

    Args:
        data: A file of one of `data.images.FORMATS`.
        max_pixels: Maximum size.

    Raises:
        HugeImageError: If it has more pixels.
        UserError: If it is no such file, or damaged.
    """
    file = ImageBytes(data, "the uploaded file")
    width, height = image_size(file)
    if width * height > max_pixels:
        raise HugeImageError(f"the uploaded picture has more than {max_pixels:,} pixels: make it smaller")
    return open_image(file)


def _jpeg(image: Image.Image, side: int) -> bytes:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY[side], optimize=False)
    return buffer.getvalue()
