"""Image counterparts of asymmetry types II and III: the picture shows less, shows more, or loses detail.

The pair stays a positive one.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ascl_lightning.data.augment.operation import AsymmetryType
from ascl_lightning.errors import UserError

_GREY = (128, 128, 128)


@dataclass(frozen=True)
class ImageOperation(ABC):
    """Makes a picture whose information differs from the original's.

    Args:
        probability: Share of the training pictures that it is applied to.

    Raises:
        UserError: If `probability` is not in (0, 1].
    """

    name: ClassVar[str]
    type: ClassVar[AsymmetryType]
    probability: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise UserError(
                f"the probability of the image operation {self.name!r} is {self.probability}: it is the share of "
                f"pictures that it changes, above 0 and at most 1"
            )

    @abstractmethod
    def __call__(self, image: Image.Image, other: Callable[[], Image.Image], rng: np.random.Generator) -> Image.Image:
        """Make a picture.

        Args:
            image: In mode RGB.
            other: Draws another picture of the training split at each call.
            rng: Source of all draws.
        """


@dataclass(frozen=True)
class CropPart(ImageOperation):
    """The picture shows less: a crop of 25 to 50 percent of its area, with its aspect ratio."""

    name: ClassVar[str] = "crop_part"
    type: ClassVar[AsymmetryType] = "II"

    def __call__(self, image: Image.Image, other: Callable[[], Image.Image], rng: np.random.Generator) -> Image.Image:
        """Cut out a part; see `ImageOperation`."""
        return image.crop(_random_box(image, rng.uniform(0.25, 0.5), rng))


@dataclass(frozen=True)
class SideBySide(ImageOperation):
    """The picture shows more: another picture next to it, or above or below it if both are wide.

    Both get the same height (or width) on a grey square, so that the encoder's square crop loses nothing.
    """

    name: ClassVar[str] = "side_by_side"
    type: ClassVar[AsymmetryType] = "III"

    def __call__(self, image: Image.Image, other: Callable[[], Image.Image], rng: np.random.Generator) -> Image.Image:
        """Lay two pictures on a square; see `ImageOperation`."""
        pair = [image, other()]
        if rng.random() < 0.5:
            pair.reverse()
        stacked = sum(picture.width / picture.height for picture in pair) > 2
        side = max(image.size)
        # length of each along the axis on which they are joined, per unit of the other axis
        shares = [picture.height / picture.width if stacked else picture.width / picture.height for picture in pair]
        across = round(side * min(1.0, 1 / sum(shares)))
        square = Image.new("RGB", (side, side), _GREY)
        place = (side - across * sum(shares)) / 2
        for picture, share in zip(pair, shares, strict=True):
            along = across * share
            size = (across, max(1, round(along))) if stacked else (max(1, round(along)), across)
            corner = ((side - across) // 2, round(place)) if stacked else (round(place), (side - across) // 2)
            square.paste(picture.resize((max(1, size[0]), max(1, size[1]))), corner)
            place += along
        return square


@dataclass(frozen=True)
class Blur(ImageOperation):
    """Details are lost: a Gaussian blur with a radius of 1 to 3 percent of the shorter side."""

    name: ClassVar[str] = "blur"
    type: ClassVar[AsymmetryType] = "II"

    def __call__(self, image: Image.Image, other: Callable[[], Image.Image], rng: np.random.Generator) -> Image.Image:
        """Blur; see `ImageOperation`."""
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.01, 0.03) * min(image.size)))


@dataclass(frozen=True)
class Occlude(ImageOperation):
    """A part is hidden: a grey box over 10 to 30 percent of the area."""

    name: ClassVar[str] = "occlude"
    type: ClassVar[AsymmetryType] = "II"

    def __call__(self, image: Image.Image, other: Callable[[], Image.Image], rng: np.random.Generator) -> Image.Image:
        """Hide a part; see `ImageOperation`."""
        left, top, right, bottom = _random_box(image, rng.uniform(0.1, 0.3), rng)
        hidden = image.copy()
        ImageDraw.Draw(hidden).rectangle((left, top, right - 1, bottom - 1), fill=_GREY)
        return hidden


def check_shares(operations: Sequence[ImageOperation]) -> None:
    """Checks that the shares do not exceed all pictures.

    Raises:
        UserError: If the probabilities sum to more than 1.
    """
    total = sum(operation.probability for operation in operations)
    if total > 1 + 1e-9:
        raise UserError(f"the probabilities of image_operations sum to {total:g}: they are shares of all pictures")


def choose_operation(operations: Sequence[ImageOperation], rng: np.random.Generator) -> ImageOperation | None:
    """Draws the operation of one picture by their shares; None for the remaining share."""
    bounds = list(accumulate(operation.probability for operation in operations))
    place = bisect_right(bounds, rng.random())
    return operations[place] if place < len(operations) else None


def _random_box(image: Image.Image, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box with the picture's aspect ratio and a share of its area: left, top, right, bottom."""
    width, height = (max(1, round(side * area**0.5)) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    return left, top, left + width, top + height
