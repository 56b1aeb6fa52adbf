"""Folders of NumPy arrays with checksums, read as memory maps."""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from ascl_lightning.errors import UserError, first_line
from ascl_lightning.runtime.files import atomic_folder, link_or_copy

CHECKSUMS = "checksums.json"
_CHUNK = 1 << 20


def save_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes one `.npy` file per array, and their checksums, to a new folder or in place of an old one, atomically.

    Raises:
        UnwritableError: If it cannot be written.
    """
    with atomic_folder(folder) as partial:
        sums = {}
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
            sums[name] = _checksum(partial / f"{name}.npy")
        (partial / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def link_arrays(source: Path, folder: Path) -> None:
    """Writes a folder of arrays under another name, as hard links if the file system has them, atomically.

    Raises:
        UnwritableError: If it cannot be written.
    """
    with atomic_folder(folder) as partial:
        for file in source.iterdir():
            link_or_copy(file, partial / file.name)


def load_array(path: Path, remedy: str = "extract again", *, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """Memory-maps a `.npy` file.

    Args:
        path: The file.
        remedy: What the user can do if it is damaged.
        mode: "c" gives an array that may be written, as torch wants it; the file does not change.

    Raises:
        UserError: If it is no regular file, or damaged.
    """
    if not path.is_file():  # opening a named pipe would wait for ever
        raise UserError(f"{path}: there is no such file, or it is no regular file; {remedy}")
    try:
        return np.lib.format.open_memmap(path, mode=mode)
    except Exception as error:
        # on damaged headers numpy raises nearly anything: ValueError, EOFError, SyntaxError, tokenize.TokenError...
        raise UserError(f"{path}: not a readable array ({first_line(error)}); {remedy}") from error


def damaged_arrays(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files that differ from what `save_arrays` wrote; empty without checksums (older versions wrote none).

    Args:
        folder: Folder written by `save_arrays`.
        names: The arrays to check.

    Raises:
        UserError: If the checksums cannot be read.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return []
    try:
        sums = json.loads(path.read_bytes())
        expected = {folder / f"{name}.npy": sums[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable checksums; extract again") from error
    return [file for file, checksum in expected.items() if not file.is_file() or _checksum(file) != checksum]


def _checksum(path: Path) -> str:
    """CRC-32, which detects any single flipped bit; takes about a second per gigabyte."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"
