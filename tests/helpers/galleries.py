"""Folders of small pictures to index."""

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from tests.helpers.retrievers import pictures


def write_picture(file: Path, seed: int, *, mtime: int | None = None) -> None:
    """Writes noise, 48 x 40; the same for the same seed.

    Args:
        file: The PNG file.
        seed: Seed of the noise.
        mtime: Time of change in seconds.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures(seed + 1)[seed].permute(1, 2, 0).numpy()).save(file)
    if mtime is not None:
        os.utime(file, (mtime, mtime))


def write_pictures(folder: Path, names: Iterable[str], captions: dict[str, list[str]] | None = None) -> list[Path]:
    """Writes pictures, each of another seed, and their captions. Returns the files."""
    files = [folder / name for name in names]
    for seed, file in enumerate(files):
        write_picture(file, seed)
    for name, lines in (captions or {}).items():
        (folder / name).with_suffix(".txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return files
