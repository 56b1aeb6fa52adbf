"""Region features extracted by another program (docs/method.md#encoders; Anderson et al., CVPR 2018)."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from ascl_lightning.data.batch import Features, RegionSpec
from ascl_lightning.data.sources.files import data_folder
from ascl_lightning.errors import UserError

_NUMBERED = re.compile(r"(?:.*_)?([0-9]+)", re.DOTALL)


@dataclass(frozen=True)
class OpenRegions:
    """The region features of many images.

    Args:
        path: The file or folder that holds the features, for messages.
        find: Reads the regions stored under exactly this key, (R, T), at most `spec.num_regions`; None without any.
    """

    path: Path
    find: Callable[[str, RegionSpec], np.ndarray | None]

    def load(self, image_ids: Sequence[str], spec: RegionSpec) -> Features:
        """Reads the region features of some images; see `stack_regions`.

        Args:
            image_ids: Ids as a source gives them; `candidate_keys` lists the keys that are tried for each.
            spec: Number of regions to keep (the first ones; fewer are padded) and their width.

        Raises:
            UserError: If an image is missing, or its features are damaged or do not fit `spec`.
        """
        return stack_regions([self._regions_of(image_id, spec) for image_id in image_ids], spec)

    def _regions_of(self, image_id: str, spec: RegionSpec) -> Float32[np.ndarray, "R T"]:
        keys = candidate_keys(image_id)
        for key in keys:
            found = self.find(key, spec)
            if found is not None:
                return found
        tried = ", ".join(map(repr, keys))
        raise UserError(f"{self.path}: holds no region features of the image {image_id!r}; looked for {tried}")


class RegionStore(ABC):
    """Storage of region features; no file is opened before `open`.

    Args:
        path: The file or folder, relative to the root.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def open(self, root: Path | None) -> OpenRegions:
        """Finds the features of all images below `--data.root`.

        Raises:
            UserError: If they are missing or damaged, or one image is stored twice.
        """

    def _locate(self, root: Path | None) -> Path:
        return data_folder(root, self.path) / self.path


def candidate_keys(image_id: str) -> list[str]:
    """The keys under which an image's features may be stored, most likely first.

    Args:
        image_id: A file name, a path or a number.

    Returns:
        The id; its last part without the ending; and if that is a number or ends in `_` and a number: the number
        without leading zeros and with 12 digits, as MSCOCO writes it. No key appears twice.

    Example:
        >>> candidate_keys("COCO_val2014_000000000042.jpg")
        ['COCO_val2014_000000000042.jpg', 'COCO_val2014_000000000042', '42', '000000000042']
        >>> candidate_keys("dog.jpg")
        ['dog.jpg', 'dog']
    """
    stem = PurePosixPath(image_id).stem
    keys = [image_id, stem]
    numbered = _NUMBERED.fullmatch(stem)
    if numbered is not None:
        number = numbered[1].lstrip("0") or "0"
        keys += [number, number.zfill(12)]
    return list(dict.fromkeys(filter(None, keys)))


def check_rows(shape: tuple[int, ...], dtype: np.dtype[Any], spec: RegionSpec, where: str) -> None:
    """Checks the shape and type of region features before they are read.

    Raises:
        UserError: If they are not at least one row of `spec.dim` floating-point numbers.
    """
    if len(shape) != 2 or shape[1] != spec.dim or shape[0] == 0:
        raise UserError(f"{where}: holds shape {shape}, expected (number of regions, {spec.dim})")
    if dtype.kind != "f":
        raise UserError(f"{where}: holds {dtype}, expected floating-point numbers")


def to_regions(array: np.ndarray, spec: RegionSpec, where: str) -> Float32[np.ndarray, "R T"]:
    """Checks the regions of an image and copies the first `spec.num_regions` to float32, (R, T).

    Args:
        array: Floating-point numbers, (number of regions, `spec.dim`), at least one region.
        spec: Number of regions to keep and their width.
        where: Origin of the array, for messages.

    Raises:
        UserError: If the array has another shape or type, or its values are not finite.
    """
    check_rows(array.shape, array.dtype, spec, where)
    with np.errstate(over="ignore"):
        regions = array[: spec.num_regions].astype(np.float32)
    if not np.isfinite(regions).all():
        raise UserError(f"{where}: holds values that are not finite in float32; extract this image again")
    return regions


def stack_regions(regions: Sequence[Float32[np.ndarray, "_ T"]], spec: RegionSpec) -> Features:
    """Stacks the regions of N images, padded with zeros.

    Args:
        regions: One array per image, from `to_regions`.
        spec: Maximum number of regions K and their width T.

    Returns:
        float32 features: an image's mean region as `pooled`, (N, T), and its regions as `tokens`, (N, K, T).
    """
    tokens = np.zeros((len(regions), spec.num_regions, spec.dim), np.float32)
    for row, of_image in enumerate(regions):
        tokens[row, : len(of_image)] = of_image
    pooled = np.stack([of_image.mean(axis=0) for of_image in regions])
    mask = np.arange(spec.num_regions) < np.array([[len(of_image)] for of_image in regions])
    return Features(*map(torch.from_numpy, (pooled, tokens, mask)))
