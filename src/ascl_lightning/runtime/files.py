"""Atomic files and folders, and one error for every place that cannot be written.

A file is written beside its place, flushed to disk and renamed, so that a killed process or a power cut leaves either
the old file or the new one, never a part.
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
"""Pattern of what a killed process may leave beside a file or a folder that it was writing."""

_ADVICE = {
    errno.ENOSPC: "free space there or choose another place",
    errno.EDQUOT: "free space there or choose another place",
    errno.EFBIG: "choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another place",
    errno.EEXIST: "a file stands where a folder is needed: choose another place",
    errno.EISDIR: "this is a folder: name a file",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable or choose another place"),
}
UNWRITABLE = frozenset(_ADVICE)
"""Numbers of the system's errors that a place has and the program has not."""

_BLOCK = 4096


class UnwritableError(UserError):
    """A place cannot be written: it is read-only, full, a file in place of a folder, or its name is too long."""

    @classmethod
    def of(cls, place: str | Path, error: OSError) -> "UnwritableError":
        """The error for a place, with the system's reason and what to do about it.

        Args:
            place: The file or folder that was to be written.
            error: What the system raised.
        """
        shown = str(place) if len(str(place)) <= 200 else f"{str(place)[:200]}..."
        advice = _ADVICE.get(error.errno or 0, "choose another place")
        return cls(f"cannot write '{shown}': {error.strerror or error}; {advice}")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` at the end of the block, complete and on disk; after an exception, not at all.

    Folders above it are made. A link is followed. A device or a pipe, such as `/dev/stdout`, is written directly.

    Args:
        path: The file to write or to replace.

    Yields:
        The open file, for bytes.

    Raises:
        UnwritableError: If the place cannot be written; what was there before is untouched.
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
    """Writes a file as `atomic_file` does; text as UTF-8.

    Raises:
        UnwritableError: If the place cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Makes a folder that replaces `path` at the end of the block, complete and on disk; not after an exception.

    Args:
        path: The folder to make or to replace.

    Yields:
        An empty folder to write files into.

    Raises:
        UnwritableError: If the place cannot be written.
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


def require_regular(path: Path) -> None:
    """Call before opening a file of the data: a named pipe would wait for ever, and a device need not end.

    Raises:
        OSError: If there is no such file, or it is something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def remove_partials(folder: Path) -> None:
    """Removes what killed processes left in a folder that no other process writes to."""
    for left in folder.glob(PARTIAL):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def require_writable_file(path: Path) -> None:
    """Makes sure, before work is done, that a file could be written; nothing stays behind.

    Raises:
        UnwritableError: If it could not.
    """
    with _unwritable(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            return  # a device or a pipe
        _probe(path.resolve().parent)
        _check_name(path)


def require_writable_folder(path: Path) -> None:
    """Makes sure, before work is done, that files could be written to a folder; nothing stays behind, nor is it made.

    Raises:
        UnwritableError: If they could not.
    """
    with _unwritable(path):
        _probe(path)


def _probe(folder: Path) -> None:
    """Writes a block to the folder, or where it does not exist, to the nearest folder above it."""
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
    except OSError:  # a name that is too long, or a folder that may not be searched
        return False


def _check_name(path: Path) -> None:
    """Asks the system whether a name may be as long as this."""
    with suppress(FileNotFoundError):
        os.lstat(path)


def _partial(path: Path) -> Path:
    # short whatever the name, and different in every process
    return path.with_name(f".{uuid4().hex}.partial")


def _sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to disk."""
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
        # torch's writer raises an error of its own in place of the system's
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UnwritableError.of(place, cause) from error
