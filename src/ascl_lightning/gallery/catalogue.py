"""The catalogue of a gallery: what is known of each picture, in SQLite."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int

from ascl_lightning.gallery.database import Mode, connect, database_errors, transaction
from ascl_lightning.gallery.where import FIELDS, filter_sql, parse_filter
from ascl_lightning.runtime.files import UnwritableError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, folder TEXT NOT NULL, name TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, hash TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, taken TEXT, year INTEGER, month INTEGER, caption TEXT, tags TEXT
);
CREATE INDEX IF NOT EXISTS items_by_hash ON items (hash);
CREATE TABLE IF NOT EXISTS captions (id INTEGER PRIMARY KEY, item INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS captions_by_item ON captions (item);
CREATE TABLE IF NOT EXISTS unreadable (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, next INTEGER NOT NULL);
"""
_ADD_TAGS = "ALTER TABLE items ADD COLUMN tags TEXT"
_WITHOUT_TAGS = "CREATE TEMP VIEW items AS SELECT *, NULL AS tags FROM main.items"
"""Gives readers of an older catalogue the column; the view comes before the table of the same name."""
_COLUMNS = (*FIELDS, "mtime_ns", "hash")
_ROWS_PER_QUERY = 500


@dataclass(frozen=True)
class Stamp:
    """Size and time of change of a file. If both are the same as before, the file is taken to be unchanged."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Item:
    """A picture of a gallery.

    Args:
        path: Path relative to the folder of the pictures, with `/`.
        stamp: Size and time of change.
        hash: Hash of the file's content.
        width: Width in pixels, as shown (after the EXIF orientation).
        height: Height in pixels, as shown.
        taken: Date and time of the EXIF data, such as `2024-05-31T12:00:00`.
        captions: Sentences that describe the picture.
        tags: Its tags, without line ends.
    """

    path: str
    stamp: Stamp
    hash: str
    width: int
    height: int
    taken: str | None = None
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Catalogue:
    """The items of a gallery by id. One process writes it while others read.

    A change is durable when its method returns. Ids are never used again. Several threads may call a catalogue.

    Args:
        file: The SQLite file.
        mode: Whether to create and write it, or to read an existing one.

    Raises:
        UserError: If the file is not a catalogue, or cannot be opened.
    """

    def __init__(self, file: Path, mode: Mode = "read") -> None:
        self._file = file
        self._mode: Mode = mode
        self._guard = RLock()
        if mode == "write":
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UnwritableError.of(file.parent, error) from error
        self._database = connect(file, mode)
        self._database.row_factory = sqlite3.Row
        self._database.create_function("casefold", 1, str.casefold, deterministic=True)
        with database_errors(file, mode):
            if mode == "write":
                self._database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            columns = {row["name"] for row in self._database.execute("PRAGMA main.table_info(items)")}
            if columns and "tags" not in columns:
                self._database.execute(_ADD_TAGS if mode == "write" else _WITHOUT_TAGS)

    def __enter__(self) -> "Catalogue":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM items")[0][0])

    def ids(self) -> Int[np.ndarray, " n"]:
        """Ids of all items, ascending."""
        return self._numbers("SELECT id FROM items ORDER BY id")

    def caption_ids(self) -> Int[np.ndarray, " n"]:
        """Ids of all captions, ascending."""
        return self._numbers("SELECT id FROM captions ORDER BY id")

    def where(self, text: str) -> Int[np.ndarray, " n"]:
        """Ids of the items for which a filter is true, ascending.

        Args:
            text: A filter, in the grammar of `gallery.where`.

        Raises:
            UserError: If it does not follow the grammar.
        """
        condition, values = filter_sql(parse_filter(text))
        return self._numbers(f"SELECT id FROM items WHERE {condition} ORDER BY id", values)

    def stamps(self) -> dict[str, tuple[int, Stamp, str]]:
        """Id, stamp and hash of each item by path."""
        rows = self._rows("SELECT id, path, size, mtime_ns, hash FROM items")
        return {row["path"]: (row["id"], Stamp(row["size"], row["mtime_ns"]), row["hash"]) for row in rows}

    def captions(self) -> dict[int, tuple[str, ...]]:
        """Captions of each item that has any."""
        found: dict[int, tuple[str, ...]] = {}
        for row in self._rows("SELECT item, text FROM captions ORDER BY id"):
            found[row["item"]] = (*found.get(row["item"], ()), row["text"])
        return found

    def tags(self) -> dict[int, tuple[str, ...]]:
        """Tags of each item that has any."""
        rows = self._rows("SELECT id, tags FROM items WHERE tags IS NOT NULL")
        return {row["id"]: tuple(row["tags"].split("\n")) for row in rows}

    def fields(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The fields of some items by id; ids that the catalogue lacks are left out."""
        found = self._by_id("SELECT * FROM items WHERE id IN ({})", ids)
        return {number: {name: row[name] for name in FIELDS} for number, row in found.items()}

    def captions_of(self, ids: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Item and text of some captions by id; ids that the catalogue lacks are left out."""
        found = self._by_id("SELECT * FROM captions WHERE id IN ({})", ids)
        return {number: (row["item"], row["text"]) for number, row in found.items()}

    def unreadable(self) -> dict[str, tuple[Stamp, str]]:
        """Stamp and reason of each file that could not be read, by path."""
        rows = self._rows("SELECT * FROM unreadable ORDER BY path")
        return {row["path"]: (Stamp(row["size"], row["mtime_ns"]), row["reason"]) for row in rows}

    def new_ids(self, count: int, counter: str = "items") -> range:
        """Reserves ids that were never used before.

        Args:
            count: Number of ids.
            counter: What they are for: `items` or `captions`.
        """
        with self.change() as database:
            found = database.execute("SELECT next FROM counters WHERE name = ?", (counter,)).fetchone()
            start = 0 if found is None else found[0]
            database.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (counter, start + count))
        return range(start, start + count)

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: everything in the block, or nothing if it fails."""
        with self._guard:
            if self._database.in_transaction:
                yield self._database
                return
            with transaction(self._database, self._file, self._mode):
                yield self._database

    def put(self, items: Mapping[int, Item], caption_ids: Mapping[int, Sequence[int]]) -> None:
        """Adds items, or replaces those that have these ids or paths.

        Args:
            items: Items by id.
            caption_ids: Ids of each item's captions, in their order.
        """
        names = ", ".join(_COLUMNS)
        places = ", ".join("?" * len(_COLUMNS))
        with self.change() as database:
            self.remove(list(items))
            database.executemany(
                f"INSERT INTO items ({names}) VALUES ({places})",
                [_row(number, item) for number, item in items.items()],
            )
            database.executemany(
                "INSERT INTO captions VALUES (?, ?, ?)",
                [
                    (caption, number, text)
                    for number, item in items.items()
                    for caption, text in zip(caption_ids.get(number, ()), item.captions, strict=True)
                ],
            )
            database.executemany("DELETE FROM unreadable WHERE path = ?", [(item.path,) for item in items.values()])

    def adopt(self, other: "Catalogue") -> None:
        """Takes over the items and the unreadable files of another catalogue; items with the same ids are replaced."""
        captions = other.captions()
        caption_ids: dict[int, list[int]] = {}
        for row in other._rows("SELECT id, item FROM captions ORDER BY id"):
            caption_ids.setdefault(row["item"], []).append(row["id"])
        tags = other.tags()
        items = {
            row["id"]: Item(
                row["path"],
                Stamp(row["size"], row["mtime_ns"]),
                row["hash"],
                row["width"],
                row["height"],
                row["taken"],
                captions.get(row["id"], ()),
                tags.get(row["id"], ()),
            )
            for row in other._rows("SELECT * FROM items")
        }
        with self.change():
            self.put(items, caption_ids)
            self.set_unreadable(other.unreadable())

    def set_captions(self, captions: Mapping[int, Sequence[tuple[int, str]]]) -> None:
        """Replaces the captions of items.

        Args:
            captions: Ids and texts of the captions of each item.
        """
        with self.change() as database:
            for number, of_item in captions.items():
                database.execute("DELETE FROM captions WHERE item = ?", (number,))
                database.executemany(
                    "INSERT INTO captions VALUES (?, ?, ?)", [(caption, number, text) for caption, text in of_item]
                )
                joined = "\n".join(text for _, text in of_item) or None
                database.execute("UPDATE items SET caption = ? WHERE id = ?", (joined, number))

    def set_tags(self, tags: Mapping[int, Sequence[str]]) -> None:
        """Replaces the tags of items."""
        with self.change() as database:
            database.executemany(
                "UPDATE items SET tags = ? WHERE id = ?",
                [("\n".join(of_item) or None, number) for number, of_item in tags.items()],
            )

    def remove(self, ids: Sequence[int]) -> None:
        """Removes items and their captions."""
        with self.change() as database:
            database.executemany("DELETE FROM items WHERE id = ?", [(number,) for number in ids])
            database.executemany("DELETE FROM captions WHERE item = ?", [(number,) for number in ids])

    def relocate(self, places: Mapping[int, tuple[str, Stamp]]) -> None:
        """Gives items another path and stamp; their content is the same."""
        with self.change() as database:
            # two items may swap their paths
            database.executemany(
                "UPDATE items SET path = ? WHERE id = ?", [(f"\0{number}", number) for number in places]
            )
            database.executemany(
                "UPDATE items SET path = ?, folder = ?, name = ?, size = ?, mtime_ns = ? WHERE id = ?",
                [
                    (path, *_folder_and_name(path), stamp.size, stamp.mtime_ns, number)
                    for number, (path, stamp) in places.items()
                ],
            )

    def set_unreadable(self, faults: Mapping[str, tuple[Stamp, str]], gone: Sequence[str] = ()) -> None:
        """Records files that cannot be read, and forgets others.

        Args:
            faults: Stamp and reason by path.
            gone: Paths to forget.
        """
        with self.change() as database:
            database.executemany("DELETE FROM unreadable WHERE path = ?", [(path,) for path in gone])
            database.executemany(
                "INSERT OR REPLACE INTO unreadable VALUES (?, ?, ?, ?)",
                [(path, stamp.size, stamp.mtime_ns, reason) for path, (stamp, reason) in faults.items()],
            )

    def _numbers(self, query: str, values: Sequence[Any] = ()) -> Int[np.ndarray, " n"]:
        rows = self._rows(query, values)
        return np.fromiter((row[0] for row in rows), np.int64, len(rows))

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._guard, database_errors(self._file, self._mode):
            return self._database.execute(query, values).fetchall()

    def _by_id(self, query: str, ids: Sequence[int]) -> dict[int, sqlite3.Row]:
        found: dict[int, sqlite3.Row] = {}
        for start in range(0, len(ids), _ROWS_PER_QUERY):
            part = list(ids[start : start + _ROWS_PER_QUERY])
            found |= {row["id"]: row for row in self._rows(query.format(", ".join("?" * len(part))), part)}
        return found


def _row(number: int, item: Item) -> tuple[Any, ...]:
    year, month = (None, None) if item.taken is None else (int(item.taken[:4]), int(item.taken[5:7]))
    values: dict[str, Any] = {
        "id": number,
        "path": item.path,
        "size": item.stamp.size,
        "width": item.width,
        "height": item.height,
        "taken": item.taken,
        "year": year,
        "month": month,
        "caption": "\n".join(item.captions) or None,
        "tags": "\n".join(item.tags) or None,
        "mtime_ns": item.stamp.mtime_ns,
        "hash": item.hash,
    }
    values["folder"], values["name"] = _folder_and_name(item.path)
    return tuple(values[name] for name in _COLUMNS)


def _folder_and_name(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name
