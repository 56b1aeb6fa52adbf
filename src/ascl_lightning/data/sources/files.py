"""Reads annotation files for sources; every error names the file, the row and the field."""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import overload

import numpy as np
import orjson
from jaxtyping import Int64

from ascl_lightning.data.sources.records import Record
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import require_regular

MAX_BYTES = 1 << 28
"""Maximum size of a member of an archive; larger ones are no picture or text and could fill the memory."""


_UNUSUAL = re.compile(r"[\\:\x00]")


def all_numbers(numbers: Sequence[int | None]) -> Int64[np.ndarray, " C"] | None:
    """The numbers as an array; None if one is missing."""
    return None if None in numbers else np.array(numbers, dtype=np.int64)


def data_folder(root: Path | None, holds: str) -> Path:
    """Checks the folder of the data.

    Args:
        root: `--data.root`, or None.
        holds: What the source expects in it, for messages.

    Raises:
        UserError: If no folder was given or it does not exist.
    """
    if root is None:
        raise UserError(f"set --data.root to the folder that holds {holds}")
    if not root.is_dir():
        raise UserError(f"--data.root: there is no folder {root}; it should hold {holds}")
    return root


def files_named(folder: Path, name: str) -> list[Path]:
    """The files that a name or glob pattern, relative to a folder or absolute, matches, sorted.

    Examples:
        >>> files_named(Path("/no/such/folder"), "*.tsv")
        []
    """
    path = folder / name
    if path.is_file():
        return [path]
    # pathlib's glob refuses absolute patterns
    found = (folder / match for match in glob(name, root_dir=folder, recursive=True))  # noqa: PTH207
    return sorted(path for path in found if path.is_file())


def image_folder(folder: Path) -> Path:
    """Checks that a folder of pictures exists.

    Raises:
        UserError: If it does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"there is no image folder {folder}; put the images there or change the source's `images`")
    return folder


def name_inside(folder: Path, record: Record, field: str) -> str:
    """The path relative to `folder` that a field names; does not access the disk.

    Raises:
        UserError: If the path is absolute or leaves the folder.
    """
    name = record.text(field)
    if name[0] not in "./" and ".." not in name and not _UNUSUAL.search(name):
        return name  # fast path
    relative = Path(name)
    if relative.anchor or ".." in relative.parts or not relative.parts or "\0" in name:
        record.fail(field, f"must name a path inside {folder}, not {name!r}")
    return name


class FolderImages(Sequence[Path]):
    """Paths of the pictures in a folder; symbolic links out of the folder are refused at access.

    Args:
        folder: The folder, which may be a link itself.
        names: Path of each picture relative to it, from `name_inside`.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> Path: ...
    @overload
    def __getitem__(self, row: slice) -> "FolderImages": ...
    def __getitem__(self, row: int | slice) -> "Path | FolderImages":
        """The path of a picture.

        Raises:
            UserError: If it is a link out of the folder.
        """
        if isinstance(row, slice):
            return FolderImages(self.folder, self.names[row])
        path = self.folder / self.names[row]
        if not os.path.realpath(path).startswith(self._real_prefix):
            raise UserError(
                f"{path}: a symbolic link that leads out of {self.folder} is not followed; "
                f"copy the file, or let the configuration name the folder that the link leads to"
            )
        return path

    @cached_property
    def _real_prefix(self) -> str:
        return f"{os.path.realpath(self.folder).rstrip(os.sep)}{os.sep}"


def register_image_id(places: dict[str, str], image_id: str, record: Record, field: str) -> None:
    """Records where an image id occurs.

    Args:
        places: The place of each id so far, to which this one is added.
        image_id: The id.
        record: Its record.
        field: Its field.

    Raises:
        UserError: If the id occurred before.
    """
    if image_id in places:
        record.fail(field, f"repeats the image {image_id!r} of {places[image_id]}")
    places[image_id] = record.where


def read_json(path: Path) -> Record:
    """Reads a UTF-8 file with one JSON object.

    Raises:
        UserError: If there is no such file, or it is not UTF-8, not JSON or not an object.
    """
    return Record(parse_json(_decode(b"".join(_byte_lines(path)), path), str(path)), str(path))


def read_lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file, split at `\n` only, with their line ends.

    Raises:
        UserError: If there is no such file or a line is not UTF-8.
    """
    for number, line in enumerate(_byte_lines(path), start=1):
        yield _decode(line, path, number)


def _byte_lines(path: Path) -> Iterator[bytes]:
    try:
        require_regular(path)
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        yield from file


def json_lines(file: Path) -> Iterator[tuple[int, object]]:
    """Line number and value of each line of a JSON lines file; blank lines are skipped.

    Raises:
        UserError: If there is no such file, or a line is not UTF-8 or not JSON.
    """
    for number, line in enumerate(_byte_lines(file), start=1):
        if not line.isspace():
            try:
                value = orjson.loads(line)
            except ValueError:
                value = parse_json(_decode(line, file, number).rstrip(), f"{file}, line {number}")
            yield number, value


def csv_rows(file: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of each row of a comma-separated table.

    Raises:
        UserError: If a required column is missing, a required or optional one repeats, or a row has more or fewer cells
            than the header.
    """
    rows = _csv_cells(file)
    _, header = next(rows, (1, []))
    for column in (*required, *optional):
        if not (column in required) <= header.count(column) <= 1:
            raise UserError(f"{file}, line 1: must name one column '{column}'; it names: {', '.join(header)}")
    for line, cells in rows:
        if len(cells) not in (0, len(header)):
            raise UserError(
                f"{file}, line {line}: has {len(cells)} cells, the header {len(header)}; quote texts that hold commas"
            )
        if cells:
            yield line, dict(zip(header, cells, strict=True))


def _csv_cells(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row and the number of its first line."""
    reader = csv.reader(read_lines(file), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{file}, line {line}: broken CSV: {error}") from error
        yield line, cells


def parse_json(text: str, where: str) -> object:
    """Parses one JSON value; `where` names the text in messages.

    Raises:
        UserError: If it is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, " if "\n" in text else ""
        raise UserError(f"{where}: broken JSON at {position}column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: unusable JSON: {error}") from error


def _unreadable(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no file {path}; check --data.root and the source's file names")
    return UserError(f"{path}: cannot be read: {error.strerror}")


def _decode(data: bytes, path: Path, first_line: int = 1) -> str:
    try:
        # spreadsheets write a byte order mark
        return data.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        # a whole JSON file may be one line
        place = error.start - data.rfind(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}: not UTF-8 text (byte 0x{data[error.start]:02x}, number {place} of the line); "
            f"save it as UTF-8"
        ) from error
