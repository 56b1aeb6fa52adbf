"""Tables of image paths and captions: JSON lines, CSV and Parquet."""

from abc import abstractmethod
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.columns import CaptionColumn
from ascl_lightning.data.sources.files import FolderImages, csv_rows, data_folder, image_folder, json_lines, name_inside
from ascl_lightning.data.sources.records import Record
from ascl_lightning.errors import UserError

_FIELDS = ("image", "image_id", "split", "caption", "captions")
_BLOCK = 1 << 14


@dataclass(eq=False)
class Table(Source):
    """Rows with an image path and captions, in one file per split or in one file with a field `split`.

    Rows with one caption each are joined if they name the same image; a row with a list of captions must be its
    image's only row. An image's id is the field `image_id`, or else its path.

    Args:
        files: The file of each split, or one file whose rows have a field `split`; relative to the root.
        images: The folder, relative to the root, that the rows' paths are relative to.
    """

    unit: ClassVar[str] = "line"
    """What `rows` counts, for messages."""

    files: dict[str, str] | str
    images: str = "."

    @abstractmethod
    def rows(self, file: Path) -> Iterator[tuple[int, object]]:
        """The number and the fields of each row: `image`, `caption` or `captions`, maybe `image_id` and `split`.

        Raises:
            UserError: If the file is missing or malformed.
        """

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        names = [self.files] if isinstance(self.files, str) else list(self.files.values())
        root = data_folder(root, ", ".join(names))
        if not isinstance(self.files, str) and split not in self.files:
            raise missing_split(split, {name: len(self.read(root, name)) for name in self.files}, str(root))
        file = root / (self.files if isinstance(self.files, str) else self.files[split])
        rows = _Rows(file, self.unit, image_folder(root / self.images))
        records = self._records(file)
        in_one_file = isinstance(self.files, str)
        for number, row in _of_split(records, split) if in_one_file else _of_one_split(records, file):
            rows.add(number, row)
        if len(rows):
            return rows.split()
        if in_one_file:
            raise missing_split(split, self._sizes(file), str(file))
        raise UserError(f"{file}: holds no rows")

    def _records(self, file: Path) -> Iterator[tuple[int, Record]]:
        prefix = f"{file}, {self.unit}"
        return ((number, Record(fields, f"{prefix} {number}")) for number, fields in self.rows(file))

    def _sizes(self, file: Path) -> dict[str, int]:
        """Number of images of each split of one file."""
        images: dict[str, set[str]] = {}
        for _, row in self._records(file):
            image_id = row.identifier("image_id") if row.has("image_id") else row.text("image")
            images.setdefault(row.text("split"), set()).add(image_id)
        return {name: len(ids) for name, ids in images.items()}


def _of_split(records: Iterator[tuple[int, Record]], split: str) -> Iterator[tuple[int, Record]]:
    for number, row in records:
        if not row.has("split"):
            row.fail("split", "is missing; add it, or give `files` one file a split, as in {train: train.jsonl}")
        if row.text("split") == split:
            yield number, row


def _of_one_split(records: Iterator[tuple[int, Record]], file: Path) -> Iterator[tuple[int, Record]]:
    splits: set[str] = set()
    for number, row in records:
        if row.has("split"):
            splits.add(row.text("split"))
        if len(splits) > 1:
            # reading the whole file as one split would put test images into training
            row.fail("split", f"differs from earlier rows; give the file alone, as in `files: {file.name}`")
        yield number, row


class JsonLines(Table):
    """One JSON object per line: `{"image": "a.jpg", "captions": ["...", "..."]}` or with one `"caption": "..."`.

    `split` and `image_id` are optional; other fields are ignored. An image without captions has an empty list.
    Arguments: see `Table`.
    """

    def rows(self, file: Path) -> Iterator[tuple[int, object]]:
        """The rows of a file; see `Table.rows`."""
        return json_lines(file)


class ParquetTable(Table):
    """A Parquet file with the columns `image` (a path) and `caption`, or `captions` (a list).

    `split` and `image_id` are optional; other columns are ignored. For files that contain the pictures, use
    `HubDataset`. Arguments: see `Table`.
    """

    unit = "row"

    def rows(self, file: Path) -> Iterator[tuple[int, object]]:
        """The rows of a file; see `Table.rows`."""
        number = 0
        for batch in _read_parquet(file).to_batches(max_chunksize=_BLOCK):
            yield from enumerate(batch.to_pylist(), number)
            number += len(batch)


def _read_parquet(file: Path) -> "pa.Table":
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            present = set(opened.schema_arrow.names)
            table = opened.read(columns=[name for name in _FIELDS if name in present])
            _check_text(table, file)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}; check --data.root and the source's file names") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: not a readable Parquet file: {error}") from error
    if "image" in present and not _is_text(table.schema.field("image").type):
        raise UserError(
            f"{file}: column 'image' holds {table.schema.field('image').type}, not paths; "
            f"use the source HubDataset for pictures inside the file"
        )
    return table


def _check_text(table: "pa.Table", file: Path) -> None:
    """Validates a table; Arrow's own message on invalid UTF-8 names the column but not the row.

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
    """A comma-separated table with the columns `image` and `caption`, one caption per row.

    `split` and `image_id` are optional columns; other columns are ignored. Arguments: see `Table`.
    """

    def rows(self, file: Path) -> Iterator[tuple[int, object]]:
        """The rows of a file; see `Table.rows`."""
        return csv_rows(file, required=("image", "caption"), optional=("split", "image_id"))


class _Rows:
    """Joins rows to a split, with captions as Arrow columns: a million rows take seconds and some 300 MB.

    Args:
        file: The file of the rows, for messages.
        unit: What their numbers count, for messages.
        folder: The image folder.
    """

    def __init__(self, file: Path, unit: str, folder: Path) -> None:
        self._prefix = f"{file}, {unit}"
        self._folder = folder
        self._images: dict[str, int] = {}
        self._names: list[str] = []
        self._numbers = array("i")
        self._listed = bytearray()
        self._owners = array("i")
        self._block: list[str] = []
        self._blocks: list[pa.Array] = []

    def __len__(self) -> int:
        return len(self._names)

    def add(self, number: int, row: Record) -> None:
        """Adds a row.

        Raises:
            UserError: If a field is faulty or contradicts an earlier row.
        """
        name = name_inside(self._folder, row, "image")
        image_id = row.identifier("image_id") if row.has("image_id") else name
        captions, listed = _captions(row)
        image = self._images.setdefault(image_id, len(self._names))
        if image == len(self._names):
            self._names.append(name)
            self._numbers.append(number)
            self._listed.append(listed)
        else:
            self._check_repeat(row, image_id, name, image, listed)
        self._block += captions
        self._owners.extend([image] * len(captions))
        if len(self._block) >= _BLOCK:
            self._flush()

    def split(self) -> Split:
        """The split of all rows, with the images in order of their first rows."""
        self._flush()
        image_ids = list(self._images)
        self._images.clear()  # frees 80 MB for a million rows
        texts, owners = pa.chunked_array(self._blocks), np.frombuffer(self._owners, np.int32)
        if (owners[1:] < owners[:-1]).any():
            texts = texts.take(pa.array(owners.argsort(kind="stable")))
        captions = CaptionColumn(texts, np.bincount(owners, minlength=len(self)))
        return Split(image_ids, captions, FolderImages(self._folder, self._names))

    def _check_repeat(self, row: Record, image_id: str, name: str, image: int, listed: bool) -> None:
        where = f"{self._prefix} {self._numbers[image]}"
        if self._names[image] != name:
            row.fail("image_id", f"repeats {image_id!r} of {where} with another image")
        if listed or self._listed[image]:
            row.fail("image", f"repeats the image {image_id!r} of {where}; give its captions in one list")

    def _flush(self) -> None:
        self._blocks.append(pa.array(self._block, pa.string()))
        self._block = []


def _captions(row: Record) -> tuple[tuple[str, ...], bool]:
    """The captions of a row, and whether they are a list."""
    if not row.has("captions"):
        return row.caption("caption"), False
    if row.has("caption"):
        row.fail("caption", "is given in addition to 'captions'; keep one of them")
    return row.captions("captions"), True
