"""Fixed views of a picture (flipped, cropped, larger), whose features `ascl extract --views` stores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ascl_lightning.data.batch import PixelSpec

ViewKind = Literal["flip", "crops", "larger"]

_CROP_SIDE = 3 / 4
"""Side of a crop as a share of the side that the plain view shows."""

_LARGER = 10 / 7
"""Size of the larger view relative to the encoder's: 320 pixels instead of 224."""

_STRIDE = 32
"""The larger size is a multiple of this, the stride of most backbones."""


@dataclass(frozen=True)
class ImageView:
    """One way to show a picture to an encoder.

    Args:
        name: Its name, also that of its folder.
        place: Place of a crop: share of the rest that lies to its left and above it; None shows what evaluation shows.
        flipped: Mirror the picture left to right.
        larger: Scale the picture to a larger size, which gives a finer grid of tokens.
    """

    name: str
    place: tuple[float, float] | None = None
    flipped: bool = False
    larger: bool = False

    def spec(self, spec: PixelSpec) -> PixelSpec:
        """Format of the pictures in this view.

        Examples:
            >>> half = (0.5, 0.5, 0.5)
            >>> ImageView("larger", larger=True).spec(PixelSpec(224, half, half)).size
            320
        """
        if not self.larger:
            return spec
        strides = max(round(spec.size * _LARGER / _STRIDE), spec.size // _STRIDE + 1)
        return replace(spec, size=strides * _STRIDE)

    def box(self, size: tuple[int, int], crop: Literal["center", "squash"]) -> tuple[int, int, int, int]:
        """What the view shows of a picture: left, top, right and bottom in pixels.

        Args:
            size: Width and height of the picture.
            crop: How pictures become square, as in `PixelSpec`.
        """
        width, height = size if crop == "squash" else (min(size),) * 2
        across, down = 0.5, 0.5
        if self.place is not None:
            width, height = (max(1, round(side * _CROP_SIDE)) for side in (width, height))
            across, down = self.place
        left, top = int((size[0] - width) * across), int((size[1] - height) * down)
        return left, top, left + width, top + height

    def orient(self, pixels: UInt8[np.ndarray, "3 S S"]) -> UInt8[np.ndarray, "3 S S"]:
        """Mirrors a picture if the view is flipped."""
        return np.ascontiguousarray(pixels[:, :, ::-1]) if self.flipped else pixels


PLAIN = ImageView("plain")
"""What evaluation shows to an encoder."""

_CROPS = {
    "crop_top_left": (0.0, 0.0),
    "crop_top_right": (1.0, 0.0),
    "crop_bottom_left": (0.0, 1.0),
    "crop_bottom_right": (1.0, 1.0),
    "crop_center": (0.5, 0.5),
}

VIEWS: dict[ViewKind, tuple[ImageView, ...]] = {
    "flip": (ImageView("flip", flipped=True),),
    "crops": tuple(ImageView(name, place) for name, place in _CROPS.items()),
    "larger": (ImageView("larger", larger=True),),
}
"""The views of each kind. Crops are the four corners of the whole picture and its center."""


def views_of(kinds: Sequence[ViewKind]) -> list[ImageView]:
    """The views of some kinds, each once, in the order of `VIEWS`."""
    return [view for kind, views in VIEWS.items() if kind in kinds for view in views]
