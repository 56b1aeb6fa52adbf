"""Writes the pictures and captions of a split as files, so that they can be indexed as a folder."""

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from ascl_lightning.data.images import ImageBytes
from ascl_lightning.data.sources.base import Split
from ascl_lightning.data.sources.folder import PICTURE_ENDINGS, text_beside
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import UnwritableError, link_or_copy, write_file


def write_split(split: Split, folder: Path) -> None:
    """Writes pictures, and their captions into text files of the same name; files that are the same are kept.

    Picture files become hard links if possible, decoded pictures PNG files.

    Args:
        split: The split.
        folder: Folder for the files; it is created.

    Raises:
        UserError: If the split has no pictures, one cannot be read, or the folder cannot be written.
    """
    if split.images is None:
        raise UserError("the split has no pictures, only captions or features: give --images with a folder")
    taken: set[str] = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for row, (image, captions) in enumerate(zip(split.images, split.captions, strict=True)):
            name = _file_name(split.image_ids[row], row, image, taken)
            _write(image, folder / name)
            if captions:
                lines = "".join(f"{' '.join(caption.split())}\n" for caption in captions)
                _write_changed(folder / text_beside(name), lines.encode())
    except OSError as error:
        raise UnwritableError.of(error.filename or folder, error) from error


def _file_name(image_id: str, row: int, image: Path | ImageBytes | np.ndarray, taken: set[str]) -> str:
    """A name without folders that is unique in the split."""
    stem, ending = os.path.splitext(str(image_id))  # noqa: PTH122 — the id is no path
    if ending.lower() not in PICTURE_ENDINGS:
        stem, ending = str(image_id), ".jpg" if isinstance(image, Path | ImageBytes) else ".png"
    if isinstance(image, np.ndarray):
        ending = ".png"
    name = re.sub(r"[^\w-]", "_", stem).strip("_") or "picture"
    if name.lower() in taken:
        name = f"{name}_{row}"
    taken.add(name.lower())
    return name + ending


def _write(image: Path | ImageBytes | np.ndarray, file: Path) -> None:
    if isinstance(image, Path):
        if not file.exists() or file.stat().st_size != image.stat().st_size:
            file.unlink(missing_ok=True)
            link_or_copy(image, file)
        return
    if isinstance(image, ImageBytes):
        _write_changed(file, image.data)
        return
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    _write_changed(file, buffer.getvalue())


def _write_changed(file: Path, content: bytes) -> None:
    if not file.exists() or file.read_bytes() != content:
        write_file(file, content)
