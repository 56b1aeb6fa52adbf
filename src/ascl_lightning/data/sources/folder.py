"""A folder of images, each with a text file of the same name."""

import os
from collections.abc import Iterator
from pathlib import Path

from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.files import FolderImages, data_folder, read_lines
from ascl_lightning.data.sources.records import Record
from ascl_lightning.errors import UserError

PICTURE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
"""Endings of picture files, in lower case."""


class CaptionFolder(Source):
    """One sub-folder per split with, at any depth, `NAME.jpg` and `NAME.txt`, which has one caption per line.

    An image without a text file has no captions; empty lines are skipped. An image's id is its path relative to the
    split's folder. Symbolic links to folders are not followed.
    """

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        root = data_folder(root, "a folder for each split, with images and text files")
        folder = root / split
        if split in ("", ".", "..") or "/" in split or not folder.is_dir():
            sizes = {path.name: len(_list(path)[0]) for path in sorted(root.iterdir()) if path.is_dir()}
            raise missing_split(split, sizes, str(root))
        names, texts = _list(folder)
        if not names:
            raise UserError(f"{folder}: holds no images ({', '.join(sorted(PICTURE_ENDINGS))})")
        # refuses symbolic links out of the folder for texts too
        files = FolderImages(folder, [text_beside(name) for name in names])
        captions = [tuple(captions_in(files[row])) if name in texts else () for row, name in enumerate(files.names)]
        lonely = texts - {text_beside(name) for name in names}
        if lonely:
            raise UserError(f"{folder / min(lonely)}: there is no image of this name")
        if not any(captions):
            raise UserError(f"{folder}: no image has a text file with captions, such as a.txt for a.jpg")
        return Split(names, captions, FolderImages(folder, names))


def text_beside(name: str) -> str:
    """Path of the text file with the captions of an image."""
    return os.path.splitext(name)[0] + ".txt"  # noqa: PTH122 — a million paths cost seconds


def _list(folder: Path) -> tuple[list[str], set[str]]:
    """Relative paths of the images, sorted, and of the texts of a folder."""
    images: list[str] = []
    texts: set[str] = set()
    for parent, _, files in os.walk(folder):
        below = os.path.relpath(parent, folder)
        for file in files:
            name = file if below == "." else f"{below}/{file}"
            ending = Path(file).suffix.lower()
            if ending in PICTURE_ENDINGS:
                images.append(name)
            elif ending == ".txt":
                texts.add(name)
    return sorted(images), texts


def captions_in(file: Path) -> Iterator[str]:
    """The captions of a text file, one per line without empty ones.

    Raises:
        UserError: If the file cannot be read.
    """
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            yield from Record({"caption": line.strip()}, f"{file}, line {number}").caption("caption")
