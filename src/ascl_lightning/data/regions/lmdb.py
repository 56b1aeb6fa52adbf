"""Region features in an LMDB, as ViLBERT and others keep them."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions.base import (
    OpenRegions,
    ProcessFile,
    RegionFeatures,
    RegionStore,
    decode_rows,
    one_line,
    optional_package,
    to_regions,
)
from ascl_lightning.data.regions.pickled import PickledArray, read_pickle
from ascl_lightning.errors import UserError

_LONGEST_KEY = 511
"""LMDB's own limit in bytes, as it is built."""


class RegionLmdb(RegionStore):
    """An LMDB with one value an image, kept under the image's id.

    A value is the content of a `.npy` file; or little-endian float32 numbers, region after region; or the pickled
    dictionary of ViLBERT's files, of whose fields `features` (an array, or base64 of float32) and `num_boxes` are
    read. From a pickle only arrays, numbers and text are taken; one that names anything else is refused.

    Args:
        path: The database's folder or file, under the root.
    """

    def open(self, root: Path | None) -> OpenRegions:
        """Open the database, to read only; see `RegionStore.open`."""
        path = self._locate(root)
        file = path / "data.mdb" if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"there is no file {file} of region features; check --data.root and the store's path")
        opened = ProcessFile(file, _open)
        opened.get()
        return _OpenLmdb(file, opened)


class _OpenLmdb(OpenRegions):
    def __init__(self, path: Path, file: ProcessFile) -> None:
        super().__init__(path)
        self._file = file

    def find(self, key: str, spec: RegionSpec) -> RegionFeatures | None:
        encoded = key.encode(errors="surrogatepass")
        if not 0 < len(encoded) <= _LONGEST_KEY:
            return None
        value = self._get(encoded)
        where = f"{self.path}, key {key!r}"
        return None if value is None else to_regions(_decode(value, spec, where), spec, where)

    def _get(self, key: bytes) -> bytes | None:
        environment = self._file.get()
        try:
            with environment.begin() as transaction:
                value: bytes | None = transaction.get(key)
                return value
        except Exception as error:
            raise UserError(f"{self.path}: not a readable LMDB: {one_line(error)}") from error


def _open(path: Path) -> Any:
    lmdb = optional_package("lmdb", path)
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, max_dbs=0)
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable LMDB: {one_line(error)}") from error
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = path.stat().st_size
    if size < expected:
        # LMDB maps the file, and reading beyond its end would kill the process
        environment.close()
        raise UserError(
            f"{path}: has {size} bytes of {expected}: copy the rest; or if it is whole and only free pages are missing "
            f"at its end, compact it with mdb_copy -c"
        )
    return environment


def _decode(value: bytes, spec: RegionSpec, where: str) -> np.ndarray:
    try:
        if value.startswith(b"\x93NUMPY"):
            return np.lib.format.read_array(io.BytesIO(value), allow_pickle=False)
        # a pickle's first and last opcode
        if value.startswith(b"\x80") and value.endswith(b"."):
            return _from_record(read_pickle(value), spec, where)
    except UserError:
        raise
    except Exception as error:
        # on damaged values both raise nearly anything: ValueError, EOFError, IndexError, UnpicklingError...
        raise UserError(f"{where}: holds a value that cannot be read: {one_line(error)}") from error
    if len(value) % (4 * spec.dim):
        raise UserError(f"{where}: holds {len(value)} bytes, expected regions of {4 * spec.dim} ({spec.dim} float32)")
    return np.frombuffer(value, "<f4").reshape(-1, spec.dim)


def _from_record(record: object, spec: RegionSpec, where: str) -> np.ndarray:
    if not isinstance(record, dict):
        raise UserError(f"{where}: holds a pickled {type(record).__name__}, expected a dictionary")
    fields = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in record.items()}
    features, num_boxes = fields.get("features"), fields.get("num_boxes")
    if isinstance(num_boxes, PickledArray):
        num_boxes = num_boxes.build().item()
    if isinstance(features, PickledArray):
        return _cut(features.build(), num_boxes, where)
    if not isinstance(num_boxes, int) or num_boxes < 0:
        raise UserError(f"{where}: field 'num_boxes' must be a whole number, not {num_boxes!r}")
    if isinstance(features, str):
        features = features.encode()
    if not isinstance(features, bytes):
        raise UserError(f"{where}: field 'features' must be an array or base64, not {type(features).__name__}")
    return decode_rows(features, num_boxes, spec, where)


def _cut(array: np.ndarray, num_boxes: object, where: str) -> np.ndarray:
    if num_boxes is None:
        return array
    if not isinstance(num_boxes, int) or not 0 <= num_boxes <= len(array):
        raise UserError(f"{where}: field 'num_boxes' is {num_boxes!r}, of {len(array)} regions")
    return array[:num_boxes]
