"""Items by id in shards, with a database that says which row of which shard holds each.

An upsert writes a new shard, flushes it to disk, renames it into place, and then commits its rows to the database.
After a crash at any moment, the database names complete shards only; others are removed when the folder is next opened
for writing. A deletion only removes rows from the database. Small shards, and those that mostly consist of removed
rows, are joined into new ones.
"""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import astuple
from pathlib import Path
from threading import RLock

import numpy as np
from jaxtyping import Int

from ascl_lightning.data.arrays import link_arrays, save_arrays
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.compaction import shards_to_join
from ascl_lightning.gallery.database import Mode, connect, database_errors, transaction
from ascl_lightning.gallery.shards import Encoding, Shard, item_arrays, joined_arrays
from ascl_lightning.gallery.snapshot import Snapshot
from ascl_lightning.gallery.writer_lock import lock_for_writing
from ascl_lightning.runtime.files import UnwritableError, remove_partials
from ascl_lightning.search.encoded import Encoded

_DATABASE = "items.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS encoding (kind TEXT, model TEXT, width INTEGER, shares_vectors INTEGER);
-- numbers are never used twice: readers may still have the files of a removed shard open
CREATE TABLE IF NOT EXISTS shards (number INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER, used INTEGER);
CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, shard INTEGER, row INTEGER);
CREATE INDEX IF NOT EXISTS items_by_shard ON items (shard);
"""
_IN_LIST = "IN (SELECT value FROM json_each(?))"


class ItemShards:
    """Embeddings and tokens of items in a folder. One process writes it; others may read it at the same time.

    Args:
        folder: The folder; created for writing.
        mode: Whether to write, which one process may do at a time, or only to read.

    Raises:
        UserError: If another process writes the folder, or if it cannot be read or written.
    """

    def __init__(self, folder: Path, mode: Mode = "read") -> None:
        self._folder = folder
        self._mode: Mode = mode
        self._path = folder / _DATABASE
        self._guard = RLock()
        self._loaded: tuple[tuple[int, int], Snapshot] | None = None
        self._written = 0
        self._lock = lock_for_writing(folder) if mode == "write" else None
        try:
            if mode == "read" and not self._path.is_file():
                raise self._no_gallery
            self._database = connect(self._path, mode)
            if mode == "write":
                self._prepare()
            elif not self._has_tables():
                raise self._no_gallery
        except BaseException:
            self._release()
            raise

    def upsert(self, ids: Sequence[int], items: Encoded) -> None:
        """See `VectorStore.upsert`."""
        self._require_writer()
        numbers = checked_ids(ids, len(items))
        if not len(numbers):
            return
        with self._guard:
            self._require_encoding(Encoding.of(items))
            shard = self._next_number()
            save_arrays(self._shard_folder(shard), item_arrays(items))
            with self._transaction():
                self._remove(numbers)
                self._set_encoding(Encoding.of(items))
                self._add_shard(shard, numbers)
            self._compact()

    def delete(self, ids: Sequence[int]) -> None:
        """See `VectorStore.delete`."""
        self._require_writer()
        with self._guard:
            with self._transaction():
                self._remove(np.asarray(ids, np.int64))
            self._compact()

    def adopt(self, other: "ItemShards") -> None:
        """Takes over the items of another folder, which keeps its files; those that have the same ids are replaced.

        Raises:
            UserError: If they are of another kind or model, or cannot be written.
        """
        self._require_writer()
        with self._guard, other._guard:
            for number in other._shard_numbers():
                shard, places = other._places(number)
                self._require_encoding(shard.encoding)
                new = self._next_number()
                link_arrays(other._shard_folder(number), self._shard_folder(new))
                with self._transaction():
                    self._remove(places[:, 0])
                    self._set_encoding(shard.encoding)
                    self._add_shard(new, places[:, 0], places[:, 1], len(shard))
            self._compact()

    def items(self, ids: Sequence[int]) -> Encoded:
        """See `VectorStore.items`."""
        return self.snapshot().items(ids)

    def ids(self) -> Int[np.ndarray, " n"]:
        """See `VectorStore.ids`."""
        return self.snapshot().ids.copy()

    def count(self) -> int:
        """See `VectorStore.count`."""
        return len(self.snapshot().ids)

    def close(self) -> None:
        """See `VectorStore.close`."""
        with self._guard:
            self._loaded = None
            self._database.close()
            self._release()

    def snapshot(self) -> Snapshot:
        """The items as of now. What is written later, by any process, does not change it.

        Raises:
            UserError: If the folder cannot be read, or is damaged.
        """
        with self._guard:
            while True:
                version = self._version()
                if self._loaded is not None and self._loaded[0] == version:
                    return self._loaded[1]
                try:
                    self._loaded = version, self._load()
                except UserError:
                    # a writer may have joined the shards that were to be opened
                    if self._version() == version:
                        raise

    def _load(self) -> Snapshot:
        with transaction(self._database, self._path, "read"):
            encoding = self._encoding()
            sizes = self._database.execute("SELECT number, rows FROM shards ORDER BY number").fetchall()
            places = self._database.execute("SELECT id, shard, row FROM items ORDER BY id").fetchall()
        opened = self._loaded[1].shards if self._loaded else {}
        shards = {
            number: opened[number] if number in opened else Shard.open(self._shard_folder(number), rows, encoding)
            for number, rows in sizes
            if encoding is not None
        }
        return Snapshot(shards, encoding, np.array(places, np.int64).reshape(-1, 3))

    def _version(self) -> tuple[int, int]:
        """Changes with every commit: that of other connections, and of this one."""
        with database_errors(self._path, "read"):
            return self._database.execute("PRAGMA data_version").fetchone()[0], self._written

    def _encoding(self) -> Encoding | None:
        row = self._database.execute("SELECT kind, model, width, shares_vectors FROM encoding").fetchone()
        return row and Encoding(row[0], row[1], row[2], bool(row[3]))

    def _require_writer(self) -> None:
        if self._mode == "read":
            raise UserError(f"the gallery '{self._folder}' is opened for reading: open it for writing to change it")

    def _require_encoding(self, encoding: Encoding) -> None:
        with database_errors(self._path, "read"):
            own = self._encoding()
        if own not in (None, encoding):
            raise UserError(
                f"{self._folder}: holds {own.kind} encoded by another model, or of another kind than these "
                f"{encoding.kind}; build the gallery in another folder"
            )

    def _remove(self, ids: Int[np.ndarray, " a"]) -> None:
        listed = [json.dumps(ids.tolist())]
        counts = self._database.execute(
            f"SELECT count(*), shard FROM items WHERE id {_IN_LIST} GROUP BY shard", listed
        ).fetchall()
        self._database.executemany("UPDATE shards SET used = used - ? WHERE number = ?", counts)
        self._database.execute(f"DELETE FROM items WHERE id {_IN_LIST}", listed)

    def _set_encoding(self, encoding: Encoding) -> None:
        if self._encoding() is None:
            self._database.execute("INSERT INTO encoding VALUES (?, ?, ?, ?)", astuple(encoding))

    def _shard_numbers(self) -> list[int]:
        with database_errors(self._path, "read"):
            return [row[0] for row in self._database.execute("SELECT number FROM shards ORDER BY number")]

    def _add_shard(
        self,
        number: int,
        ids: Int[np.ndarray, " a"],
        rows: Int[np.ndarray, " a"] | None = None,
        num_rows: int | None = None,
    ) -> None:
        """Adds a shard with the ids of its rows; all of them in order, unless `rows` says which of `num_rows`."""
        places = range(len(ids)) if rows is None else rows.tolist()
        self._database.execute("INSERT INTO shards VALUES (?, ?, ?)", (number, num_rows or len(ids), len(ids)))
        values = ((id_, number, row) for id_, row in zip(ids.tolist(), places, strict=True))
        self._database.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", values)

    def _compact(self) -> None:
        """Joins shards until there are few. Without space for that, they stay as they are: nothing is lost."""
        with suppress(UnwritableError):
            while True:
                with database_errors(self._path, "write"):
                    sizes = self._database.execute("SELECT number, rows, used FROM shards ORDER BY number").fetchall()
                joined = shards_to_join(sizes)
                if not joined:
                    return
                self._join(joined)

    def _join(self, numbers: Sequence[int]) -> None:
        shards, rows, ids = [], [], []
        for number in numbers:
            shard, places = self._places(number)
            is_used = np.zeros(len(shard), bool)
            is_used[places[:, 1]] = True
            shards.append(shard)
            rows.append(is_used)
            ids.append(places[:, 0])
        moved = np.concatenate(ids)
        new = self._next_number()
        if len(moved):
            save_arrays(self._shard_folder(new), joined_arrays(shards, rows))
        with self._transaction():
            if len(moved):
                self._add_shard(new, moved)
            self._database.execute(f"DELETE FROM shards WHERE number {_IN_LIST}", [json.dumps(list(numbers))])
        for number in numbers:
            shutil.rmtree(self._shard_folder(number), ignore_errors=True)

    def _places(self, number: int) -> tuple[Shard, Int[np.ndarray, "u 2"]]:
        """A shard, with id and row of its items, by row."""
        with database_errors(self._path, "write"):
            encoding = self._encoding()
            size = self._database.execute("SELECT rows FROM shards WHERE number = ?", [number]).fetchone()[0]
            places = self._database.execute("SELECT id, row FROM items WHERE shard = ? ORDER BY row", [number])
            found = np.array(places.fetchall(), np.int64).reshape(-1, 2)
        assert encoding is not None, "there is a shard, so that something was encoded"
        return Shard.open(self._shard_folder(number), size, encoding), found

    def _transaction(self) -> AbstractContextManager[None]:
        self._written += 1
        return transaction(self._database, self._path, "write")

    def _next_number(self) -> int:
        with database_errors(self._path, "write"):
            row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'shards'").fetchone()
        return 1 if row is None else row[0] + 1

    def _shard_folder(self, number: int) -> Path:
        return self._folder / f"{number:08d}"

    def _prepare(self) -> None:
        """Creates the tables, and removes what a crash has left."""
        with database_errors(self._path, "write"):
            self._database.executescript(f"BEGIN; {_TABLES} COMMIT;")
            known = {self._shard_folder(row[0]) for row in self._database.execute("SELECT number FROM shards")}
        remove_partials(self._folder)
        for folder in self._folder.glob("[0-9]" * 8):
            if folder not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def _has_tables(self) -> bool:
        """Whether a writer has completed its first transaction."""
        with database_errors(self._path, "read"):
            return bool(self._database.execute("SELECT name FROM sqlite_master").fetchone())

    @property
    def _no_gallery(self) -> UserError:
        return UserError(f"'{self._folder}' has no gallery: build one with `ascl index`")

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def checked_ids(ids: Sequence[int], num_items: int) -> Int[np.ndarray, " a"]:
    """The ids of some items as an array.

    Raises:
        ValueError: If they are not distinct, are negative, or are more or fewer than the items.
    """
    numbers = np.asarray(ids, np.int64).reshape(-1)
    if len(numbers) != num_items or len(np.unique(numbers)) != num_items or (numbers < 0).any():
        raise ValueError(f"{len(numbers)} ids for {num_items} items: ids must be distinct, not negative, one per item")
    return numbers
