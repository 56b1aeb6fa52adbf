"""Pre-extracted region features of images (docs/method.md#encoders; Anderson et al., CVPR 2018), in any format."""

import base64
import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from jaxtyping import Bool, Float32

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.sources.files import data_folder
from ascl_lightning.errors import UserError

_NUMBERED = re.compile(r"(?:.*_)?([0-9]+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """The region features of one image, padded to a fixed number: one row of a batch's `Features`."""

    pooled: Float32[np.ndarray, " T"]
    """Mean over the real regions."""
    tokens: Float32[np.ndarray, "K T"]
    """Zero where `mask` is False."""
    mask: Bool[np.ndarray, " K"]
    """True for real regions."""


class OpenRegions(ABC):
    """The region features of many images, found and ready to be read.

    It may be pickled and may be used on both sides of a fork: each process opens files for itself.

    Args:
        path: What the features lie in, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, image_id: str, spec: RegionSpec) -> RegionFeatures:
        """Read the region features of one image.

        Args:
            image_id: The image's id, as a source gives it; `candidate_keys` says what is looked for.
            spec: How many regions are kept (the first ones; fewer are padded) and how wide they are.

        Returns:
            float32 arrays with K = `spec.num_regions` and T = `spec.dim`.

        Raises:
            UserError: If the image is not there, or what is there is damaged or does not fit `spec`.
        """
        keys = candidate_keys(image_id)
        for key in keys:
            features = self.find(key, spec)
            if features is not None:
                return features
        tried = ", ".join(map(repr, keys))
        raise UserError(f"{self.path}: holds no region features of the image {image_id!r}; looked for {tried}")

    @abstractmethod
    def find(self, key: str, spec: RegionSpec) -> RegionFeatures | None:
        """The region features kept under exactly this key, or None where there are none.

        Raises:
            UserError: As `load` does.
        """


class RegionStore(ABC):
    """Where region features lie; nothing is looked at before `open`.

    Args:
        path: The file or folder, under the root.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def open(self, root: Path | None) -> OpenRegions:
        """Find the features of all images.

        Args:
            root: `--data.root`.

        Raises:
            UserError: If they are not there, are damaged, or keep one image twice.
        """

    def _locate(self, root: Path | None) -> Path:
        return data_folder(root, self.path) / self.path


def candidate_keys(image_id: str) -> list[str]:
    """The keys under which an image's features may be kept, the likeliest first.

    Args:
        image_id: A file name, a path or a number.

    Returns:
        The id, its last part without the ending, and where that is a number or ends in `_` and a number: the number
        without leading zeros and with 12 digits, as MSCOCO writes it. None comes twice.

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
    """Check what can be told of region features before they are read.

    Raises:
        UserError: If they are not at least one row of `spec.dim` floating-point numbers.
    """
    if len(shape) != 2 or shape[1] != spec.dim or shape[0] == 0:
        raise UserError(f"{where}: holds shape {shape}, expected (number of regions, {spec.dim})")
    if dtype.kind != "f":
        raise UserError(f"{where}: holds {dtype}, expected floating-point numbers")


def to_regions(array: np.ndarray, spec: RegionSpec, where: str) -> RegionFeatures:
    """Make features of an image's regions.

    Args:
        array: Floating-point numbers, (number of regions, `spec.dim`); any number of regions but none.
        spec: How many regions are kept (the first ones; fewer are padded) and how wide they are.
        where: What the array was read from, for messages.

    Returns:
        float32 arrays with K = `spec.num_regions` and T = `spec.dim`, which share no memory with `array`.

    Raises:
        UserError: If it is no such array, or its values are not finite.
    """
    check_rows(array.shape, array.dtype, spec, where)
    with np.errstate(over="ignore"):
        regions = array[: spec.num_regions].astype(np.float32)
    if not np.isfinite(regions).all():
        raise UserError(f"{where}: holds values that are not finite in float32; extract this image again")
    tokens = np.zeros((spec.num_regions, spec.dim), np.float32)
    tokens[: len(regions)] = regions
    return RegionFeatures(regions.mean(axis=0), tokens, np.arange(spec.num_regions) < len(regions))


def decode_rows(text: bytes, num_boxes: int, spec: RegionSpec, where: str) -> Float32[np.ndarray, "N T"]:
    """Decode the field `features` of Anderson et al.'s tables: base64 of little-endian float32 numbers.

    Raises:
        UserError: If it is not base64, or not `num_boxes` rows of `spec.dim` numbers.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise UserError(f"{where}: field 'features' is damaged base64: {error}") from error
    expected = num_boxes * spec.dim * 4
    if len(data) != expected:
        raise UserError(
            f"{where}: field 'features' holds {len(data)} bytes, "
            f"expected {expected} (num_boxes {num_boxes} x {spec.dim} float32)"
        )
    return np.frombuffer(data, "<f4").reshape(num_boxes, spec.dim)


def one_line(error: Exception) -> str:
    """What an error of another package says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def optional_package(name: str, path: Path) -> Any:
    """Import a package that only one kind of store needs.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{path}: reading it needs the package {name}; install ascl-lightning[regions]") from error


class _Held:
    """An open file, and the process that opened it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.process = os.getpid()


_HELD: WeakValueDictionary[str, _Held] = WeakValueDictionary()


class ProcessFile:
    """A file that each process opens for itself when it first reads, once however many stores read it.

    Neither HDF5 nor LMDB may be used across a fork, and LMDB not opened twice; so what a parent process had open is
    closed in the child, and opened anew.

    Args:
        path: The file.
        opener: Opens it; a function of a module, which can be pickled.
    """

    def __init__(self, path: Path, opener: Callable[[Path], Any]) -> None:
        self._path = path
        self._opener = opener
        self._held: _Held | None = None

    def get(self) -> Any:
        """The file, open in this process."""
        if self._held is None or self._held.process != os.getpid():
            self._held = self._hold()
        return self._held.file

    def _hold(self) -> _Held:
        place = os.path.realpath(self._path)
        held = _HELD.get(place)
        if held is not None and held.process == os.getpid():
            return held
        if held is not None:
            held.file.close()
        held = _HELD[place] = _Held(self._opener(self._path))
        return held

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None}
