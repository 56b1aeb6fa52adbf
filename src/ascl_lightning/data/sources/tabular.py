"""Tables of image paths and captions: JSON lines, CSV and Parquet."""

import gc
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.columns import split_of_columns
from ascl_lightning.data.sources.files import (
    FolderImages,
    Record,
    csv_records,
    data_folder,
    image_folder,
    name_inside,
    parse_json,
    read_lines,
)
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import require_regular

_TEXT_FIELDS = ("image", "image_id", "split", "caption")
_BLOCK_LINES = 1 << 14
_COLUMNS = pa.schema([(name, pa.string()) for name in _TEXT_FIELDS] + [("captions", pa.list_(pa.string()))])


class Table(Source):
    """Rows of an image path and captions, in one file a split or in one file that names each row's split.

    Rows that bring one caption each join where they name the same image; a row with a list of captions is its image's
    only row. An image's id is its field `image_id` where given, otherwise its path.

    Args:
        files: For each split its file, or one file whose rows have a field `split`; under the root.
        images: The folder, under the root, that the rows' paths start from.
    """

    def __init__(self, files: dict[str, str] | str, images: str = ".") -> None:
        self.files = files
        self.images = images

    @abstractmethod
    def records(self, file: Path) -> Iterator[Record]:
        """The rows of a file.

        Args:
            file: The file.

        Returns:
            Rows with the fields `image`, `caption` or `captions`, and perhaps `image_id` and `split`.

        Raises:
            UserError: If the file is missing or its form is broken.
        """

    def columns(self, file: Path) -> "pa.Table | None":
        """The same rows as whole columns, which is much quicker.

        Args:
            file: The file.

        Returns:
            Text columns named as the fields of `records`, and lists of text `captions`, null where a row has no such
            field; None where that cannot be had, and for everything that `records` would refuse.
        """
        return None

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        names = [self.files] if isinstance(self.files, str) else list(self.files.values())
        root = data_folder(root, ", ".join(names))
        if not isinstance(self.files, str) and split not in self.files:
            raise missing_split(split, {name: len(self.read(root, name)) for name in self.files}, str(root))
        file = root / (self.files if isinstance(self.files, str) else self.files[split])
        folder = image_folder(root / self.images)
        return self._read_columns(file, split, folder) or self._read_rows(file, split, folder)

    def _read_columns(self, file: Path, split: str, folder: Path) -> Split | None:
        table = self.columns(file)
        if table is None or not len(table):
            return None
        splits = table.column("split")
        names = pc.unique(splits.drop_null()).to_pylist()
        if not all(name.strip() for name in names):
            return None
        if isinstance(self.files, str):
            if splits.null_count:
                return None
            table = table.filter(pc.equal(splits, split))
        elif len(names) > 1:
            return None
        return split_of_columns(table, folder)

    def _read_rows(self, file: Path, split: str, folder: Path) -> Split:
        rows = self._rows_of_split(file, split) if isinstance(self.files, str) else self._rows_of_file(file)
        return _to_split(rows, folder)

    def _rows_of_split(self, file: Path, split: str) -> Iterator[Record]:
        images: dict[str, set[str]] = {}
        for row in self.records(file):
            if not row.has("split"):
                row.fail("split", "is missing; add it, or give `files` one file a split, as in {train: train.jsonl}")
            name = row.text("split")
            images.setdefault(name, set()).add(_image_id(row))
            if name == split:
                yield row
        if split not in images:
            raise missing_split(split, {name: len(ids) for name, ids in images.items()}, str(file))

    def _rows_of_file(self, file: Path) -> Iterator[Record]:
        row = None
        splits: set[str] = set()
        for row in self.records(file):
            if row.has("split"):
                splits.add(row.text("split"))
            if len(splits) > 1:
                # taken as one split, such a file would put test images into training
                row.fail("split", f"differs from earlier rows; give the file alone, as in `files: {file.name}`")
            yield row
        if row is None:
            raise UserError(f"{file}: holds no rows")


class JsonLines(Table):
    """One JSON object a line: `{"image": "a.jpg", "captions": ["...", "..."]}` or with one `"caption": "..."`.

    `split` and `image_id` may stand beside them; other fields are left alone. An image without captions has an empty
    list. Arguments: see `Table`.
    """

    def records(self, file: Path) -> Iterator[Record]:
        """The rows of a file; see `Table.records`."""
        for number, line in enumerate(read_lines(file), start=1):
            if line.strip():
                where = f"{file}, line {number}"
                yield Record(parse_json(line.rstrip(), where), where)

    def columns(self, file: Path) -> "pa.Table | None":
        """The same rows as columns; see `Table.columns`."""
        try:
            require_regular(file)
            with file.open("rb") as lines, _without_collection():
                blocks = list(_blocks_of_columns(lines))
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        return pa.Table.from_batches(blocks, schema=_COLUMNS)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Python looks for cycles each time that so many objects were made; here there are none, and it takes most time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _blocks_of_columns(lines: Iterable[bytes]) -> Iterator["pa.RecordBatch"]:
    """The lines of a file as columns, some thousand lines at a time.

    Raises:
        ValueError: If a line is no JSON, or a value does not fit its column, as Arrow's errors are.
        TypeError: Likewise.
        AttributeError: If a line is no object.
    """
    rest = iter(lines)
    while block := list(islice(rest, _BLOCK_LINES)):
        rows = [orjson.loads(line) for line in block if not line.isspace()]
        if any(isinstance(row.get("captions"), str) for row in rows):
            raise TypeError("Arrow takes some texts for lists of their letters")
        columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in _COLUMNS]
        yield pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)


class ParquetTable(Table):
    """A Parquet file with the columns `image` (a path) and `caption`, or `captions` with a list of them.

    `split` and `image_id` may stand beside them; other columns are not read. Files that hold the pictures themselves
    are read by `HubDataset`. Arguments: see `Table`.
    """

    def records(self, file: Path) -> Iterator[Record]:
        """The rows of a file; see `Table.records`."""
        columns = _read_parquet(file)
        for number, row in enumerate(columns.to_pylist()):
            yield Record(row, f"{file}, row {number}")

    def columns(self, file: Path) -> "pa.Table | None":
        """The same rows as columns; see `Table.columns`."""
        table = _read_parquet(file)
        try:
            columns = [
                table.column(field.name).cast(field.type)
                if field.name in table.column_names
                else pa.nulls(len(table), field.type)
                for field in _COLUMNS
            ]
        except pa.ArrowException:
            return None  # something else than text: read row by row, which row is found
        made = pa.table(columns, schema=_COLUMNS)
        made.validate(full=True)
        return made


def _read_parquet(file: Path) -> "pa.Table":
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            present = set(opened.schema_arrow.names)
            table = opened.read(columns=[field.name for field in _COLUMNS if field.name in present])
            _check_text(table, file)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}; check --data.root and the source's file names") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: not a readable Parquet file: {error}") from error
    if "image" in present and not _is_text(table.schema.field("image").type):
        raise UserError(
            f"{file}: column 'image' holds {table.schema.field('image').type}, not paths; "
            f"read pictures that lie in the file itself with the source HubDataset"
        )
    return table


def _check_text(table: "pa.Table", file: Path) -> None:
    """Make sure of what the file claims; Arrow would name the column of a text that is not UTF-8, but not its row.

    Raises:
        UserError: If a text is not UTF-8.
        pa.ArrowInvalid: If something else is wrong.
    """
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        for field in table.schema:
            kind = pa.list_(pa.binary()) if pa.types.is_list(field.type) else pa.binary()
            for row, value in enumerate(table.column(field.name).cast(kind).to_pylist()):
                for text in value if isinstance(value, list) else [value]:
                    _check_utf8(text or b"", Record({}, f"{file}, row {row}"), field.name)
        raise


def _check_utf8(text: bytes, row: Record, field: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        row.fail(field, f"is not UTF-8 text (byte 0x{text[error.start]:02x})")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class CsvTable(Table):
    """A comma-separated table with the columns `image` and `caption`, one caption a row.

    Columns `split` and `image_id` may stand beside them; other columns are left alone. Arguments: see `Table`.
    """

    def records(self, file: Path) -> Iterator[Record]:
        """The rows of a file; see `Table.records`."""
        return csv_records(file, required=("image", "caption"), optional=("split", "image_id"))


@dataclass
class _Entry:
    name: str
    captions: list[str]
    listed: bool
    """Whether the captions came as one list."""
    where: str


def _image_id(row: Record) -> str:
    return row.identifier("image_id") if row.has("image_id") else row.text("image")


def _captions(row: Record) -> tuple[tuple[str, ...], bool]:
    if not row.has("captions"):
        return row.caption("caption"), False
    if row.has("caption"):
        row.fail("caption", "stands beside 'captions'; keep one of them")
    return row.captions("captions"), True


def _to_split(rows: Iterable[Record], folder: Path) -> Split:
    entries: dict[str, _Entry] = {}
    for row in rows:
        image_id = _image_id(row)
        name = name_inside(folder, row, "image")
        captions, listed = _captions(row)
        entry = entries.setdefault(image_id, _Entry(name, [], listed, row.where))
        if entry.name != name:
            row.fail("image_id", f"repeats {image_id!r} of {entry.where} with another image")
        if entry.where != row.where and (listed or entry.listed):
            row.fail("image", f"repeats the image {image_id!r} of {entry.where}; give its captions in one list")
        entry.captions.extend(captions)
    return Split(
        list(entries),
        [tuple(entry.captions) for entry in entries.values()],
        FolderImages(folder, [entry.name for entry in entries.values()]),
    )
