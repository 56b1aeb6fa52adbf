"""How sources read annotation files: every fault becomes one error that names the file, the row and the field."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ascl_lightning.errors import UserError

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


class Record:
    """One JSON object or row of a table, whose fields are checked as they are taken.

    Args:
        value: What was read.
        where: File and row that it was read from, for messages.

    Raises:
        UserError: If `value` is not a dictionary.
    """

    __slots__ = ("_fields", "where")

    def __init__(self, value: object, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected an object with fields, found {_kind(value)}")
        self._fields: dict[str, object] = value

    def has(self, field: str) -> bool:
        """Whether the field is there and not null."""
        return self._fields.get(field) is not None

    def fail(self, field: str, problem: str) -> NoReturn:
        """Raise the error for a field of this record.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.where}: field '{field}' {problem}")

    def text(self, field: str) -> str:
        """A text that is not blank."""
        return self._checked_text(self._get(field), field)

    def texts(self, field: str) -> list[str]:
        """A list, empty or not, of texts that are not blank."""
        return [self._checked_text(value, f"{field}[{i}]") for i, value in enumerate(self._list(field))]

    def identifier(self, field: str) -> str:
        """A name or a whole number, as text."""
        value = self._get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self._checked_text(value, field)

    def records(self, field: str) -> Iterator["Record"]:
        """The objects of a list, one by one."""
        for i, value in enumerate(self._list(field)):
            yield Record(value, f"{self.where}, {field}[{i}]")

    def _get(self, field: str) -> object:
        if field not in self._fields:
            self.fail(field, "is missing")
        return self._fields[field]

    def _list(self, field: str) -> list[object]:
        value = self._get(field)
        if not isinstance(value, list):
            self.fail(field, f"must be a list, not {_kind(value)}")
        return value

    def _checked_text(self, value: object, field: str) -> str:
        if not isinstance(value, str):
            self.fail(field, f"must be text, not {_kind(value)}")
        if not value.strip():
            self.fail(field, "is blank")
        try:
            value.encode()
        except UnicodeEncodeError:
            # JSON can spell half of a surrogate pair, which tokenizers and loggers cannot write
            self.fail(field, "holds half of a character (an unpaired surrogate)")
        return value


def data_folder(root: Path | None, holds: str) -> Path:
    """The folder that the data lies in.

    Args:
        root: `--data.root`, or None.
        holds: What the source looks for in it.

    Raises:
        UserError: If no folder was given or there is none of that name.
    """
    if root is None:
        raise UserError(f"set --data.root to the folder that holds {holds}")
    if not root.is_dir():
        raise UserError(f"--data.root: there is no folder {root}; it should hold {holds}")
    return root


def image_folder(folder: Path) -> Path:
    """A folder of pictures or region features, given back where it exists.

    Raises:
        UserError: If it does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"there is no image folder {folder}; put the images there or change the source's `images`")
    return folder


def path_inside(folder: Path, record: Record, field: str) -> Path:
    """The path under `folder` that a field names; nothing on disk is looked at.

    Raises:
        UserError: If the name is absolute or climbs out of the folder.
    """
    name = record.text(field)
    relative = Path(name)
    if relative.anchor or ".." in relative.parts or not relative.parts or "\0" in name:
        record.fail(field, f"must name a path inside {folder}, not {name!r}")
    return folder / relative


def claim(places: dict[str, str], image_id: str, record: Record, field: str) -> None:
    """Note where an image id occurs.

    Args:
        places: The ids seen so far, and where; this one is added.
        image_id: The id.
        record: Where it occurs now.
        field: The field that it comes from.

    Raises:
        UserError: If it has occurred before.
    """
    if image_id in places:
        record.fail(field, f"repeats the image {image_id!r} of {places[image_id]}")
    places[image_id] = record.where


def read_json(path: Path) -> Record:
    """Read a file that holds one JSON object, in UTF-8.

    Raises:
        UserError: If there is no such file, or it is not UTF-8, not JSON or not an object.
    """
    return Record(parse_json(_decode(_read_bytes(path), path), str(path)), str(path))


def read_lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file with their ends, split at `\n` alone.

    Raises:
        UserError: If there is no such file or a line is not UTF-8.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        for number, line in enumerate(file, start=1):
            yield _decode(line, path, number)


def parse_json(text: str, where: str) -> object:
    """Parse one JSON value.

    Args:
        text: The JSON.
        where: What the text is, for messages.

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


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no file {path}; check --data.root and the source's file names")
    return UserError(f"{path}: cannot be read: {error.strerror}")


def _decode(data: bytes, path: Path, first_line: int = 1) -> str:
    try:
        # spreadsheets open their UTF-8 files with a byte order mark
        return data.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}: not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from error


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")
