"""Region features in a folder, one `.npy` or `.npz` file an image."""

import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions.base import OpenRegions, RegionStore, to_regions
from ascl_lightning.errors import UserError, first_line

MAX_BYTES = 1 << 26
"""Larger arrays in `.npz` files are refused by the archive's directory: some kilobytes can unpack to gigabytes."""

_NAMES = ("features", "feat", "x")


class RegionFolder(RegionStore):
    """One file an image, anywhere below a folder, named by the image's id.

    `.npy` files hold an image's array, (number of regions, width); `.npz` files hold it as `features`, `feat` or `x`.

    Args:
        path: The folder, under the root.
    """

    def open(self, root: Path | None) -> OpenRegions:
        """Searches the folder once; see `RegionStore.open`."""
        folder = self._locate(root)
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder} of region features; check --data.root and the store's path")
        try:
            files = _by_stem(_files(str(folder), os.path.realpath(folder)))
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
        return OpenRegions(folder, lambda key, spec: load_regions(Path(files[key]), spec) if key in files else None)


def load_regions(path: Path, spec: RegionSpec) -> Float32[np.ndarray, "R T"]:
    """Reads the regions of one image from a `.npy` or `.npz` file (see `RegionFolder`) as `to_regions` gives them.

    Raises:
        UserError: If the file is missing or is no such array, or its values are not finite.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of region features")
    kind = path.suffix if path.suffix == ".npz" else ".npy"
    try:
        # mapped, so that regions beyond the limit are never read and a false shape in the header allocates nothing
        array = _unpack(path) if kind == ".npz" else np.lib.format.open_memmap(path, mode="r")
    except UserError:
        raise
    except Exception as error:
        # on damaged headers numpy raises nearly anything: ValueError, EOFError, SyntaxError, tokenize.TokenError...
        raise UserError(f"{path}: not a readable {kind} array: {first_line(error)}") from error
    return to_regions(array, spec, str(path))


def _by_stem(entries: Iterable["os.DirEntry[str]"]) -> dict[str, str]:
    files: dict[str, str] = {}
    for entry in entries:
        stem = entry.name[: -len(".npy")]
        if stem in files:
            raise UserError(f"two files of region features for '{stem}': {files[stem]} and {entry.path}")
        files[stem] = entry.path
    return files


def _unpack(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        found = next((members[f"{name}.npy"] for name in _NAMES if f"{name}.npy" in members), None)
        if found is None:
            raise UserError(f"{path}: holds no array {', '.join(_NAMES)}; it holds: {', '.join(members) or 'none'}")
        if found.file_size > MAX_BYTES:
            raise UserError(f"{path}: {found.filename} unpacks to more than {MAX_BYTES:,} bytes")
        with archive.open(found) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _files(folder: str, root: str) -> Iterator["os.DirEntry[str]"]:
    """The arrays below a folder; linked folders are skipped, as their targets are found in their own place.

    Raises:
        UserError: If a link to an array or a folder leads out of `root`.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            is_array = entry.name.endswith((".npy", ".npz"))
            if entry.is_symlink() and (is_array or entry.is_dir()) and not _is_inside(entry.path, root):
                raise UserError(
                    f"{entry.path}: a symbolic link out of {root} is not followed; "
                    f"copy its target into the folder, or set the store's path to the target"
                )
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, root)
            elif is_array:
                yield entry


def _is_inside(path: str, root: str) -> bool:
    return f"{os.path.realpath(path)}{os.sep}".startswith(f"{root.rstrip(os.sep)}{os.sep}")
