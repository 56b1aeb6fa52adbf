"""Atomic files and folders, and one error for all places that cannot be written.

A file is written under a temporary name, flushed to disk and renamed: after a killed process or a power cut, there is
either the old file or the new one, never a part.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from ascl_lightning.errors import UserError

PARTIAL = ".*.partial"
"""Pattern of temporary files and folders that a killed process may leave."""

_ADVICE = {
    errno.ENOSPC: "free space there or choose another place",
    errno.EDQUOT: "free space there or choose another place",
    errno.EFBIG: "choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file is in the place of a folder: choose another place",
    errno.EEXIST: "a file is in the place of a folder: choose another place",
    errno.EISDIR: "this is a folder: name a file",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable or choose another place"),
}
UNWRITABLE = frozenset(_ADVICE)
"""Error numbers of file-system errors, as opposed to bugs."""

_BLOCK = 4096


class UnwritableError(UserError):
    """A path cannot be written: it is read-only, full, a file in place of a folder, or its name is too long."""

    @classmethod
    def of(cls, place: str | Path, error: OSError) -> "UnwritableError":
        """Builds the error for a path, with the system's reason and a remedy.

        Args:
            place: The file or folder.
            error: The system's error.
        """
        shown = str(place) if len(str(place)) <= 200 else f"{str(place)[:200]}..."
        advice = _ADVICE.get(error.errno or 0, "choose another place")
        return cls(f"cannot write '{shown}': {error.strerror or error}; {advice}")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends without an exception.

    Creates parent folders and follows symlinks. A device or a pipe, such as `/dev/stdout`, is written directly.

    Args:
        path: The file to write or replace.

    Yields:
        The open binary file.

    Raises:
        UnwritableError: If the path cannot be written; an existing file is unchanged.
    """
    with _unwritable(path):
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(target)
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        _sync(target.parent)


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file atomically; text as UTF-8.

    Raises:
        UnwritableError: If the path cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Creates a temporary folder that replaces `path` when the block ends without an exception.

    Args:
        path: The folder to create or replace.

    Yields:
        The empty folder.

    Raises:
        UnwritableError: If the path cannot be written.
    """
    with _unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, old = _partial(path), _partial(path)
        try:
            partial.mkdir()
            yield partial
            for written in (*partial.rglob("*"), partial):
                _sync(written)
            if path.is_dir():
                path.rename(old)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        _sync(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name as a hard link, or copies it if the file system cannot.

    Raises:
        OSError: If it cannot be copied either.
    """
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def require_regular(path: Path) -> None:
    """Checks a data file before it is opened: a named pipe would block, and a device may be endless.

    Raises:
        OSError: If the file is missing, or is not a regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def remove_partials(folder: Path) -> None:
    """Removes temporary files of killed processes from a folder that no other process writes to."""
    for left in folder.glob(PARTIAL):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def require_writable_file(path: Path) -> None:
    """Checks that a file can be written, without leaving anything behind.

    Raises:
        UnwritableError: If it cannot be written.
    """
    with _unwritable(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            return  # a device or a pipe
        _probe(path.resolve().parent)
        _check_name(path)


def require_writable_folder(path: Path) -> None:
    """Checks that files can be written to a folder, without creating it or leaving anything behind.

    Raises:
        UnwritableError: If they cannot be written.
    """
    with _unwritable(path):
        _probe(path)


def _probe(folder: Path) -> None:
    """Writes a block to the folder or, if it does not exist, to its nearest existing parent."""
    existing = next(path for path in (folder, *folder.absolute().parents) if _exists(path))
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    for name in folder.absolute().relative_to(existing.absolute()).parts:
        _check_name(existing / name)
    partial = _partial(existing / "probe")
    try:
        with partial.open("xb") as file:
            file.write(bytes(_BLOCK))
            file.flush()
            os.fsync(file.fileno())
    finally:
        partial.unlink(missing_ok=True)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name is too long, or a parent is not searchable
        return False


def _check_name(path: Path) -> None:
    """Raises the system's error if a name is too long."""
    with suppress(FileNotFoundError):
        os.lstat(path)


def _partial(path: Path) -> Path:
    # short for any name, and unique per process
    return path.with_name(f".{uuid4().hex}.partial")


def _sync(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _unwritable(place: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's writer wraps the system's error
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UnwritableError.of(place, cause) from error
