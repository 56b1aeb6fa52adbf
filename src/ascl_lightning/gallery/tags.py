"""Tags of pictures, from the metadata files that image folders of the Hugging Face hub have."""

from collections.abc import Iterator
from pathlib import Path

from ascl_lightning.data.sources.files import csv_rows, json_lines
from ascl_lightning.data.sources.records import Record

METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of the files; the first one that a folder has is read."""
_FILE, _TAGS = "file_name", "tags"


def tags_in(file: Path) -> dict[str, tuple[str, ...]]:
    """Tags by the path of the picture, relative to the file's folder; rows without both fields are skipped.

    Args:
        file: One of `METADATA`. The field `file_name` names a picture; `tags` is a list of texts, or a text with
            commas between the tags.

    Raises:
        UserError: If the file cannot be read, or a field has another kind.
    """
    found = {}
    for record in _records(file):
        if record.has(_FILE) and record.has(_TAGS):
            tags = (" ".join(tag.split()) for tag in _split(record))
            found[record.text(_FILE)] = tuple(dict.fromkeys(tag for tag in tags if tag))
    return found


def _split(record: Record) -> list[str]:
    if record.is_list(_TAGS):
        return list(record.captions(_TAGS))
    return record.text(_TAGS).split(",")


def _records(file: Path) -> Iterator[Record]:
    if file.suffix == ".csv":
        # an empty cell is no value
        for line, cells in csv_rows(file, (), (_FILE, _TAGS)):
            yield Record({name: cell for name, cell in cells.items() if cell.strip()}, f"{file}, line {line}")
    else:
        for line, value in json_lines(file):
            yield Record(value, f"{file}, line {line}")
