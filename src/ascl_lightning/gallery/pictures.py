"""The picture files of a folder: which there are, whether they have changed, and what is in them."""

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.images import ImageFacts, image_facts
from ascl_lightning.data.inputs import read_pictures
from ascl_lightning.data.sources.folder import PICTURE_ENDINGS, captions_in, text_beside
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.catalogue import Stamp
from ascl_lightning.gallery.manifest import MANIFEST
from ascl_lightning.gallery.tags import METADATA, tags_in

_HASH_BYTES = 16
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder by their path relative to it, with `/`."""

    stamps: dict[str, Stamp] = field(default_factory=dict)
    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Captions of the pictures with a text file of the same name, one caption per line."""
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Tags that a metadata file of a folder above the picture has."""
    refused: dict[str, tuple[Stamp, str]] = field(default_factory=dict)
    """Stamp and reason of files that are not opened."""


def list_pictures(folder: Path) -> Listing:
    """Lists the pictures of a folder at any depth.

    Hidden files, galleries inside the folder, and links to folders are skipped.

    Args:
        folder: The folder.

    Raises:
        UserError: If there is no such folder, or a file with captions or tags cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: there is no such folder")
    listing, root, tags = Listing(), folder.resolve(), dict[str, tuple[str, ...]]()
    for parent, names in _walk(folder):
        texts = {name for name in names if name.endswith(".txt")}
        tags |= _tags(Path(parent), names, folder)
        for name in names:
            if Path(name).suffix.lower() not in PICTURE_ENDINGS:
                continue
            file = Path(parent, name)
            path = file.relative_to(folder).as_posix()
            status = file.lstat()
            stamp = Stamp(status.st_size, status.st_mtime_ns)
            reason = _refusal(file, root, status)
            if reason is not None:
                shown = os.fsencode(path).decode(errors="backslashreplace")
                listing.refused[shown] = (stamp, reason)
                continue
            if stat.S_ISLNK(status.st_mode):
                status = file.stat()
                stamp = Stamp(status.st_size, status.st_mtime_ns)
            listing.stamps[path] = stamp
            if text_beside(name) in texts:
                listing.captions[path] = tuple(captions_in(Path(parent, text_beside(name))))
            if tags.get(path):
                listing.tags[path] = tags[path]
    return listing


@dataclass(frozen=True)
class Picture:
    """A picture that was read."""

    path: str
    hash: str
    facts: ImageFacts
    pixels: UInt8[Tensor, "3 S S"]
    """As the encoder takes them in evaluation."""


@dataclass(frozen=True)
class Fault:
    """A picture that cannot be read."""

    path: str
    reason: str


def read_picture(folder: Path, path: str, spec: PixelSpec) -> Picture | Fault:
    """Reads a picture for an encoder, exactly as evaluation does.

    Args:
        folder: Folder of the pictures.
        path: Path of the picture, relative to the folder.
        spec: Input of the encoder.
    """
    file = folder / path
    try:
        pixels = read_pictures([file], spec)
        assert isinstance(pixels, torch.Tensor)
        return Picture(path, hash_of_file(file), image_facts(file), pixels[0])
    except (UserError, OSError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{file}: ")
        return Fault(path, reason.replace(str(file), path))


def hash_of_file(file: Path) -> str:
    """Hash of a file's content, 32 hexadecimal digits.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    with file.open("rb", buffering=0) as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder with its files, in a fixed order."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not Path(parent, name, MANIFEST).exists()
        )
        yield parent, sorted(name for name in files if not name.startswith("."))


def _tags(parent: Path, names: Collection[str], folder: Path) -> dict[str, tuple[str, ...]]:
    """Tags that the metadata file of a folder gives to pictures in it, by their path relative to `folder`."""
    for name in METADATA:
        if name in names:
            below = parent.relative_to(folder)
            return {(below / path).as_posix(): tags for path, tags in tags_in(parent / name).items()}
    return {}


def _refusal(file: Path, root: Path, status: os.stat_result) -> str | None:
    """Why a file is not opened; None if it is."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    if stat.S_ISLNK(status.st_mode):
        try:
            target = file.resolve(strict=True)
        except (OSError, RuntimeError):
            return "a symbolic link to nothing"
        if not target.is_relative_to(root):
            return "a symbolic link out of the folder"
        status = target.stat()
    return None if stat.S_ISREG(status.st_mode) else "not a regular file"
