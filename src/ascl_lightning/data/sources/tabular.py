"""Tables of image paths and captions: JSON lines and CSV."""

import csv
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.files import Record, data_folder, image_folder, parse_json, path_inside, read_lines
from ascl_lightning.errors import UserError


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

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        names = [self.files] if isinstance(self.files, str) else list(self.files.values())
        root = data_folder(root, ", ".join(names))
        if isinstance(self.files, str):
            rows = self._rows_of_split(root / self.files, split)
        elif split in self.files:
            rows = self._rows_of_file(root / self.files[split])
        else:
            raise missing_split(split, {name: len(self.read(root, name)) for name in self.files}, str(root))
        return _to_split(rows, image_folder(root / self.images))

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


class CsvTable(Table):
    """A comma-separated table with the columns `image` and `caption`, one caption a row.

    Columns `split` and `image_id` may stand beside them; other columns are left alone. Arguments: see `Table`.
    """

    def records(self, file: Path) -> Iterator[Record]:
        """The rows of a file; see `Table.records`."""
        rows = _csv_rows(file)
        _, header = next(rows, (1, []))
        for column, least in (("image", 1), ("caption", 1), ("split", 0), ("image_id", 0)):
            if not least <= header.count(column) <= 1:
                raise UserError(f"{file}, line 1: must name one column '{column}'; it names: {', '.join(header)}")
        for line, cells in rows:
            where = f"{file}, line {line}"
            if len(cells) not in (0, len(header)):
                raise UserError(
                    f"{where}: has {len(cells)} cells, the header {len(header)}; quote texts that hold commas"
                )
            if cells:
                yield Record(dict(zip(header, cells, strict=True)), where)


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row, and the line that it starts on."""
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


@dataclass
class _Entry:
    path: Path
    captions: list[str]
    listed: bool
    """Whether the captions came as one list."""
    where: str


def _image_id(row: Record) -> str:
    return row.identifier("image_id") if row.has("image_id") else row.text("image")


def _captions(row: Record) -> tuple[list[str], bool]:
    if not row.has("captions"):
        return [row.text("caption")], False
    if row.has("caption"):
        row.fail("caption", "stands beside 'captions'; keep one of them")
    return row.texts("captions"), True


def _to_split(rows: Iterable[Record], folder: Path) -> Split:
    entries: dict[str, _Entry] = {}
    for row in rows:
        image_id = _image_id(row)
        path = path_inside(folder, row, "image")
        captions, listed = _captions(row)
        entry = entries.setdefault(image_id, _Entry(path, [], listed, row.where))
        if entry.path != path:
            row.fail("image_id", f"repeats {image_id!r} of {entry.where} with another image")
        if entry.where != row.where and (listed or entry.listed):
            row.fail("image", f"repeats the image {image_id!r} of {entry.where}; give its captions in one list")
        entry.captions.extend(captions)
    return Split(
        list(entries),
        [tuple(entry.captions) for entry in entries.values()],
        [entry.path for entry in entries.values()],
    )
