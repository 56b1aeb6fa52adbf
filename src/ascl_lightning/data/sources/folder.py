"""A folder of images with a text file beside each."""

import os
from collections.abc import Iterator
from pathlib import Path

from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.files import FolderImages, Record, data_folder, read_lines
from ascl_lightning.errors import UserError

_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


class CaptionFolder(Source):
    """A sub-folder a split; beside `NAME.jpg`, at any depth, `NAME.txt` with a caption a line.

    An image without a text file has no captions; empty lines are none. An image's id is its path below the split's
    folder. Links to folders are not followed.
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
            raise UserError(f"{folder}: holds no images ({', '.join(sorted(_ENDINGS))})")
        # texts are looked up as pictures are: a link may not lead out of the folder
        files = FolderImages(folder, [_text_of(name) for name in names])
        captions = [tuple(_captions(files[row])) if name in texts else () for row, name in enumerate(files.names)]
        lonely = texts - {_text_of(name) for name in names}
        if lonely:
            raise UserError(f"{folder / min(lonely)}: there is no image of this name beside it")
        if not any(captions):
            raise UserError(f"{folder}: no image has a text file with captions beside it, as a.txt beside a.jpg")
        return Split(names, captions, FolderImages(folder, names))


def _text_of(name: str) -> str:
    return os.path.splitext(name)[0] + ".txt"  # noqa: PTH122 — a million paths cost seconds


def _list(folder: Path) -> tuple[list[str], set[str]]:
    """Paths of images, sorted, and of texts, below a folder."""
    images: list[str] = []
    texts: set[str] = set()
    for parent, _, files in os.walk(folder):
        below = os.path.relpath(parent, folder)
        for file in files:
            name = file if below == "." else f"{below}/{file}"
            ending = Path(file).suffix.lower()
            if ending in _ENDINGS:
                images.append(name)
            elif ending == ".txt":
                texts.add(name)
    return sorted(images), texts


def _captions(file: Path) -> Iterator[str]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            yield from Record({"caption": line.strip()}, f"{file}, line {number}").caption("caption")
