"""Pictures of a data set inside a page: thumbnails, and files as `data:` addresses."""

import base64
import io

import numpy as np
from PIL import Image

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.images import open_image
from ascl_lightning.data.views import SplitView


def has_pictures(view: SplitView) -> bool:
    """Whether a split has pictures to show: not where there are captions alone, region features or extracted ones."""
    return view.split.images is not None and isinstance(view.spec, PixelSpec)


def original(view: SplitView, row: int) -> Image.Image | None:
    """A picture as it lies in the data, RGB; None where the split has none.

    Raises:
        UserError: If it cannot be read.
    """
    if view.split.images is None or not has_pictures(view):
        return None
    image = view.split.images[row]
    return Image.fromarray(image) if isinstance(image, np.ndarray) else open_image(image)


def thumbnail(image: Image.Image, side: int) -> str:
    """A picture whose longer side has `side` pixels, as a `data:` address."""
    return data_address(webp(image, side), "webp")


def webp(image: Image.Image, side: int) -> bytes:
    """A picture whose longer side has `side` pixels, as a WebP file holds it."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=85)
    return buffer.getvalue()


def data_address(picture: bytes, kind: str) -> str:
    """The contents of a picture file as an address, so that a page needs no file beside it."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
