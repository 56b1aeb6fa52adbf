"""Region features in tab-separated tables, as Anderson et al. (CVPR 2018) publish them."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions.base import OpenRegions, RegionStore, to_regions
from ascl_lightning.data.sources.files import data_folder, files_named
from ascl_lightning.errors import UserError

_COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
MAX_LINE = 1 << 26
"""Longest line in bytes; a usual one has 400,000."""


class RegionTsv(RegionStore):
    """One or several tables without a header, one line per image.

    Columns: image_id, image_w, image_h, num_boxes, boxes, features; the last two are base64 of little-endian float32.

    Args:
        path: The table, under the root, or a pattern such as `trainval/*.tsv*` that names several.
    """

    def open(self, root: Path | None) -> OpenRegions:
        """Indexes the lines of all tables without decoding them; see `RegionStore.open`."""
        pattern = self._locate(root)
        files = files_named(data_folder(root, self.path), self.path)
        if not files:
            raise UserError(f"there is no file {pattern} of region features; check --data.root and the store's path")
        lines: dict[str, _Line] = {}
        for file in files:
            for key, line in _scan(file):
                if key in lines:
                    raise UserError(f"{line}: field 'image_id' repeats the image {key!r} of {lines[key]}")
                lines[key] = line
        return OpenRegions(pattern, lambda key, spec: _read_line(lines[key], spec) if key in lines else None)


class _Line(NamedTuple):
    file: Path
    number: int
    offset: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.number}"


def _read_line(where: _Line, spec: RegionSpec) -> Float32[np.ndarray, "R T"]:
    _, _, _, num_boxes, _, features = _cells(where)
    if not re.fullmatch(rb"[0-9]{1,9}", num_boxes):
        raise UserError(f"{where}: field 'num_boxes' must be a whole number, not {_shown(num_boxes)}")
    try:
        data = base64.b64decode(features, validate=True)
    except ValueError as error:
        raise UserError(f"{where}: field 'features' is damaged base64: {error}") from error
    expected = int(num_boxes) * spec.dim * 4
    if len(data) != expected:
        raise UserError(
            f"{where}: field 'features' holds {len(data)} bytes, "
            f"expected {expected} (num_boxes {int(num_boxes)} x {spec.dim} float32)"
        )
    return to_regions(np.frombuffer(data, "<f4").reshape(int(num_boxes), spec.dim), spec, str(where))


def _cells(where: _Line) -> list[bytes]:
    try:
        with where.file.open("rb") as file:
            file.seek(where.offset)
            cells = file.readline(MAX_LINE).rstrip(b"\r\n").split(b"\t")
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from error
    _check_columns(len(cells), where)
    return cells


def _scan(path: Path) -> Iterator[tuple[str, _Line]]:
    """The image id and the position of each line."""
    try:
        with path.open("rb", buffering=1 << 20) as file:
            number = offset = 0
            while line := file.readline(MAX_LINE):
                number += 1
                where = _Line(path, number, offset)
                if line not in (b"\n", b"\r\n"):
                    yield _image_id(line, where), where
                offset += len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _image_id(line: bytes, where: _Line) -> str:
    if len(line) == MAX_LINE:
        raise UserError(f"{where}: is longer than {MAX_LINE:,} bytes")
    _check_columns(line.count(b"\t") + 1, where)
    cell = line[: line.index(b"\t")].strip()
    try:
        key = cell.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: field 'image_id' is not UTF-8 text: {_shown(cell)}") from error
    if not key:
        raise UserError(f"{where}: field 'image_id' is blank")
    return key


def _check_columns(number: int, where: _Line) -> None:
    if number != len(_COLUMNS):
        raise UserError(f"{where}: has {number} columns, expected {len(_COLUMNS)}: {', '.join(_COLUMNS)}")


def _shown(cell: bytes) -> str:
    return repr(cell[:40])[1:]
