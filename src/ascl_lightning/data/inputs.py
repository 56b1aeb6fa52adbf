"""Converts Python inputs (paths, Pillow images, arrays, tensors, strings) to what the encoders take."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ascl_lightning.data.batch import Features, ImageSpec, PixelSpec, RegionSpec
from ascl_lightning.data.images import open_square, to_rgb, to_square
from ascl_lightning.data.regions.base import stack_regions, to_regions
from ascl_lightning.data.regions.folder import load_regions
from ascl_lightning.data.text import clean_caption
from ascl_lightning.data.views import collate_pictures
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.threads import side_by_side


def picture_list(images: Any, spec: ImageSpec) -> list[Any]:
    """One picture or many, as a list.

    Args:
        images: A path, a Pillow image, an array or a tensor; or several of them in a sequence, an array or a tensor.
        spec: Input format of the image encoder: pixels, (H, W, 3) in arrays and (3, H, W) in tensors, or region
            features, (number of regions, D).

    Raises:
        UserError: If `images` is of another type.
    """
    if isinstance(images, np.ndarray | Tensor):
        of_many = 4 if isinstance(spec, PixelSpec) else 3
        return list(images) if images.ndim == of_many else [images]
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, bytes | dict):
        raise UserError(f"a {type(images).__name__} is no picture: give {_accepted(spec)}, or a list of these")
    return list(images)


def read_pictures(images: Sequence[Any], spec: ImageSpec, first: int = 0) -> Tensor | Features:
    """Prepares pictures for an encoder exactly as evaluation does.

    Args:
        images: The output of `picture_list`.
        spec: Input format of the image encoder.
        first: Number of the first picture, for messages.

    Returns:
        Pixels in 0..255, (N, 3, S, S), or region features.

    Raises:
        UserError: If one cannot be read.
    """

    def read(numbered: tuple[int, Any]) -> np.ndarray:
        place, image = f"picture {numbered[0]}", numbered[1]
        return _square(image, spec, place) if isinstance(spec, PixelSpec) else _regions(image, spec, place)

    files = any(isinstance(image, str | Path) for image in images)
    arrays = list(side_by_side(read, enumerate(images, first)) if files else map(read, enumerate(images, first)))
    return collate_pictures(arrays) if isinstance(spec, PixelSpec) else stack_regions(arrays, spec)


def text_list(texts: Any) -> list[str]:
    """One text or many, as a list of cleaned texts.

    Raises:
        UserError: If a text is not a string, or blank.
    """
    given = [texts] if isinstance(texts, str) else texts
    if not isinstance(given, Iterable) or isinstance(given, bytes | dict):
        raise UserError(f"a {type(texts).__name__} is no text: give a string, or a list of strings")
    return [_cleaned(text, number) for number, text in enumerate(given)]


def _cleaned(text: Any, number: int) -> str:
    if not isinstance(text, str):
        raise UserError(f"text {number} is a {type(text).__name__}: give strings")
    cleaned = clean_caption(text)
    if not cleaned:
        raise UserError(f"text {number} is blank")
    return cleaned


def _square(image: Any, spec: PixelSpec, place: str) -> np.ndarray:
    if isinstance(image, str | Path):
        return open_square(Path(image).expanduser(), spec)
    if isinstance(image, np.ndarray | Tensor):
        return to_square(_from_numbers(image, place), spec)
    if not isinstance(image, Image.Image):
        raise UserError(f"{place} is a {type(image).__name__}: give {_accepted(spec)}")
    return to_square(to_rgb(image), spec)


def _from_numbers(image: np.ndarray | Tensor, place: str) -> Image.Image:
    """A picture from pixels: an array (H, W) or (H, W, 1, 3 or 4), or a tensor with channels first."""
    values = _numbers(image)
    if isinstance(image, Tensor) and values.ndim == 3:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.size == 0 or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise UserError(
            f"{place} has shape {tuple(image.shape)}: give arrays (height, width, 3) and tensors (3, height, width)"
        )
    if values.dtype.kind == "f":
        # NaN fails this comparison too
        if not (values.min() >= 0 and values.max() <= 1):
            raise UserError(f"{place} has floating-point values outside 0 to 1: give pictures before normalisation")
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UserError(f"{place} holds {values.dtype}: give uint8 values from 0 to 255, or floating-point ones to 1")
    return to_rgb(Image.fromarray(np.ascontiguousarray(values)))


def _regions(image: Any, spec: RegionSpec, place: str) -> np.ndarray:
    if isinstance(image, str | Path):
        return load_regions(Path(image).expanduser(), spec)
    if not isinstance(image, np.ndarray | Tensor):
        raise UserError(f"{place} is a {type(image).__name__}: give {_accepted(spec)}")
    return to_regions(_numbers(image), spec, place)


def _numbers(image: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    image = image.detach().cpu()
    # NumPy has no bfloat16
    array: np.ndarray = (image.float() if image.is_floating_point() else image).numpy()
    return array


def _accepted(spec: ImageSpec) -> str:
    if isinstance(spec, PixelSpec):
        return "a path, a Pillow image, an array (height, width, 3) or a tensor (3, height, width)"
    return f"the path of a .npy file, or an array or tensor of region features (number of regions, {spec.dim})"
