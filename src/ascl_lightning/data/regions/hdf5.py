"""Region features in one HDF5 file."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions.base import OpenRegions, RegionStore, check_rows, to_regions
from ascl_lightning.errors import UserError, first_line

_FEATURES = ("features", "image_features")
_IDS = ("image_id", "image_ids", "ids")


class RegionHdf5(RegionStore):
    """One HDF5 file, in one of three layouts.

    1. One data set per image, `/ID` or `/ID/features`, (number of regions, width).
    2. All images stacked as `features`, (N, K, width); `num_boxes`, (N,), may give the number of real regions.
    3. All regions concatenated as `features` or `image_features`, (total number, width); `pos_boxes`, (N, 2), gives
       the start and end of each image's regions.

    Layouts 2 and 3 need the ids in the same order, as `image_id`, `image_ids` or `ids`. Links and external or virtual
    data sets are refused.

    Args:
        path: The file, under the root.
    """

    def open(self, root: Path | None) -> OpenRegions:
        """Detects the layout and reads the ids of stacked images; see `RegionStore.open`."""
        path = self._locate(root)
        if not path.is_file():
            raise UserError(f"there is no file {path} of region features; check --data.root and the store's path")
        with _reading(path):
            file = _h5py(path).File(path, "r")
            stack = _read_stack(file)

        def find(key: str, spec: RegionSpec) -> Float32[np.ndarray, "R T"] | None:
            with _reading(path):
                return _find_by_key(file, key, spec) if stack is None else _find_row(file, key, spec, stack)

        return OpenRegions(path, find)


@dataclass(frozen=True)
class _Stack:
    """Index of layouts 2 and 3.

    Args:
        name: Name of the data set of features.
        rows: Row of each image, by its id.
        spans: Start and end of each image's regions: within its row, or over all images if `flat`.
        flat: Whether the regions of all images are concatenated.
    """

    name: str
    rows: dict[str, int]
    spans: Int[np.ndarray, "N 2"]
    flat: bool


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # on damaged files h5py raises OSError, RuntimeError, KeyError, ValueError...
        raise UserError(f"{path}: not a readable HDF5 file: {first_line(error)}") from error


def _h5py(path: Path) -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise UserError(f"{path}: reading it needs the package h5py; pip install 'ascl-lightning[regions]'") from error


def _find_by_key(file: Any, key: str, spec: RegionSpec) -> Float32[np.ndarray, "R T"] | None:
    found = _lookup(file, key)
    if found is None:
        return None
    where = f"{file.filename}, '{found.name}'"
    values = found if _is_data_set(found) else _data_set(found, "features")
    if values is None:
        raise UserError(f"{where}: holds no data set 'features'")
    check_rows(values.shape, values.dtype, spec, where)
    return to_regions(values[: spec.num_regions], spec, where)


def _find_row(file: Any, key: str, spec: RegionSpec, stack: _Stack) -> Float32[np.ndarray, "R T"] | None:
    row = stack.rows.get(key)
    if row is None:
        return None
    values = file[stack.name]
    start, end = stack.spans[row].tolist()
    where = f"{file.filename}, '{values.name}', image {row}"
    # checked before it is read: a false shape allocates nothing
    check_rows((end - start, values.shape[-1]), values.dtype, spec, where)
    kept = slice(start, min(end, start + spec.num_regions))
    return to_regions(values[kept] if stack.flat else values[row, kept], spec, where)


def _read_stack(file: Any) -> _Stack | None:
    """The index of layouts 2 and 3; None for layout 1."""
    values = next((found for name in _FEATURES if (found := _data_set(file, name)) is not None), None)
    if values is None:
        return None
    where = f"{file.filename}, '{values.name}'"
    if values.ndim not in (2, 3):
        raise UserError(f"{where}: holds shape {values.shape}, expected (images, regions, width) or (regions, width)")
    flat = values.ndim == 2
    spans = _read_positions(file, len(values)) if flat else _read_counts(file, *values.shape[:2])
    return _Stack(values.name, _read_ids(file, len(spans)), spans, flat)


def _read_positions(file: Any, total: int) -> Int[np.ndarray, "N 2"]:
    spans = _integers(file, "pos_boxes")
    where = f"{file.filename}, '/pos_boxes'"
    if spans is None or spans.ndim != 2 or spans.shape[1] != 2:
        raise UserError(f"{where}: must give the start and end of each image's regions, (images, 2)")
    _check_each((spans[:, 0] >= 0) & (spans[:, 0] <= spans[:, 1]) & (spans[:, 1] <= total), spans, where, total)
    return spans


def _read_counts(file: Any, num_images: int, most: int) -> Int[np.ndarray, "N 2"]:
    counts = _integers(file, "num_boxes")
    where = f"{file.filename}, '/num_boxes'"
    if counts is None:
        counts = np.full(num_images, most)
    if counts.size != num_images:
        raise UserError(f"{where}: holds shape {counts.shape}, expected ({num_images},)")
    counts = counts.reshape(num_images)
    _check_each((counts >= 0) & (counts <= most), counts, where, most)
    return np.stack([np.zeros_like(counts), counts], axis=1)


def _check_each(good: Bool[np.ndarray, " N"], values: np.ndarray, where: str, most: int) -> None:
    if not good.all():
        row = int(good.argmin())
        raise UserError(f"{where}: image {row} has {values[row].tolist()}, of {most} regions")


def _read_ids(file: Any, num_images: int) -> dict[str, int]:
    values = next((found for name in _IDS if (found := _data_set(file, name)) is not None), None)
    if values is None:
        raise UserError(f"{file.filename}: stacked images need a data set of their ids, named {', '.join(_IDS)}")
    where = f"{file.filename}, '{values.name}'"
    if values.size != num_images:
        raise UserError(f"{where}: holds shape {values.shape}, expected ({num_images},)")
    rows: dict[str, int] = {}
    for row, value in enumerate(values[()].reshape(-1).tolist()):
        key = _to_key(value, f"{where}, row {row}")
        if key in rows:
            raise UserError(f"{where}, row {row}: repeats the image {key!r} of row {rows[key]}")
        rows[key] = row
    return rows


def _to_key(value: object, where: str) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not UTF-8 text") from error
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{where}: must be a whole number or text, not {value!r}")


def _integers(file: Any, name: str) -> np.ndarray | None:
    values = _data_set(file, name)
    if values is None:
        return None
    if values.dtype.kind not in "iu":
        raise UserError(f"{file.filename}, '{values.name}': holds {values.dtype}, expected whole numbers")
    return np.asarray(values[()], np.int64)


def _data_set(group: Any, name: str) -> Any | None:
    found = _lookup(group, name)
    return found if found is not None and _is_data_set(found) else None


def _lookup(group: Any, path: str) -> Any | None:
    """The object at a path below a group, or None; the path is followed name by name to detect links."""
    h5py = importlib.import_module("h5py")
    names = [name for name in path.split("/") if name not in ("", ".")]
    place: Any = group if names else None
    for name in names:
        try:
            link = place.get(name, getlink=True) if isinstance(place, h5py.Group) else None
        except UnicodeEncodeError:
            link = None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"{group.file.filename}: '{name}' is a link, which is not followed; copy its target")
        place = place[name]
    return place


def _is_data_set(found: Any) -> bool:
    """Whether it is a data set, not a group.

    Raises:
        UserError: If its values lie in other files.
    """
    if not isinstance(found, importlib.import_module("h5py").Dataset):
        return False
    if found.is_virtual or found.external:
        raise UserError(f"{found.file.filename}, '{found.name}': its values lie in other files, which are not read")
    return True
