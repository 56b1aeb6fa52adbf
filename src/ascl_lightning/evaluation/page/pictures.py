"""Images of a data set in HTML: thumbnails, and `data:` URLs."""

import base64
import io

import numpy as np
from PIL import Image

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.images import open_image
from ascl_lightning.data.views import SplitView


def has_pictures(view: SplitView) -> bool:
    """Whether a split has images, and not only captions, region features or extracted features."""
    return view.split.images is not None and isinstance(view.spec, PixelSpec)


def original(view: SplitView, row: int) -> Image.Image | None:
    """The original image, RGB. None if the split has no images.

    Raises:
        UserError: If the image cannot be read.
    """
    if view.split.images is None or not has_pictures(view):
        return None
    image = view.split.images[row]
    return Image.fromarray(image) if isinstance(image, np.ndarray) else open_image(image)


def thumbnail(image: Image.Image, side: int) -> str:
    """An image resized to `side` pixels on the longer side, as a `data:` URL."""
    return data_address(webp(image, side), "webp")


def webp(image: Image.Image, side: int) -> bytes:
    """An image resized to `side` pixels on the longer side, as WebP."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=85)
    return buffer.getvalue()


def data_address(picture: bytes, kind: str) -> str:
    """An image file as a `data:` URL, which makes a page self-contained."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
