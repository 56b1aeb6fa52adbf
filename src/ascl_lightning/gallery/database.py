"""SQLite databases of a gallery: one writer, and readers that see whole transactions beside it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import UnwritableError

Mode = Literal["read", "write"]
REBUILD = "build the gallery again in another folder"
"""What a user can do about a damaged gallery."""


def connect(path: Path, mode: Mode) -> sqlite3.Connection:
    """Opens a database; what is committed to it survives a crash of the machine.

    The connection may be used by one thread at a time, and begins no transaction by itself.

    Args:
        path: The file. Its folder exists.
        mode: Whether to create and write the database, or to read an existing one.

    Raises:
        UserError: If it cannot be opened.
    """
    uri = path.absolute().as_uri()
    with database_errors(path, mode):
        if mode == "read":
            return _connect_reader(path, uri)
        connection = _connect(f"{uri}?mode=rwc")
        connection.execute("PRAGMA journal_mode = WAL")
        # in WAL mode, only FULL flushes each commit to disk
        connection.execute("PRAGMA synchronous = FULL")
        return connection


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path, mode: Mode) -> Iterator[None]:
    """Commits what the block does if it ends without an exception, or else undoes all of it.

    Args:
        connection: From `connect`.
        path: The database's file, for errors.
        mode: "read" gives the block an unchanging view.

    Raises:
        UserError: If the database cannot be read or written.
    """
    with database_errors(path, mode):
        connection.execute("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # SQLite itself undoes transactions after some errors
            with suppress(sqlite3.OperationalError):
                connection.execute("ROLLBACK")
            raise


@contextmanager
def database_errors(path: Path, mode: Mode) -> Iterator[None]:
    """Reports SQLite's errors in one line."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if mode == "read":
            raise UserError(f"cannot read '{path}': {error}; check that the folder exists and is readable") from error
        raise UnwritableError(f"cannot write '{path}': {error}; free space there or choose another place") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: {error}; {REBUILD}") from error


def _connect_reader(path: Path, uri: str) -> sqlite3.Connection:
    connection = _connect(f"{uri}?mode=ro")
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError:
        connection.close()
        log = path.with_name(f"{path.name}-wal")
        if not path.is_file() or log.exists():
            raise
        # who may not write the folder cannot create the log either; without one, no writer has the database open
        return _connect(f"{uri}?immutable=1")
    return connection


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
