"""Flickr30K and Flickr8k as distributed (Young et al., TACL 2014; Hodosh et al., JAIR 2013) and as on the hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.files import (
    FolderImages,
    csv_rows,
    data_folder,
    image_folder,
    name_inside,
    parse_json,
    read_lines,
    register_image_id,
)
from ascl_lightning.data.sources.records import Record


@dataclass(eq=False)
class FlickrTokens(Source):
    """A token file (`results_20130124.token`, `Flickr8k.token.txt`) and a list of images for each split.

    Each line of the token file is `NAME.jpg#NUMBER`, a tab and a caption; each line of a list is an image's name, with
    or without its extension. An image's id is its file name.

    Args:
        annotations: The token file, relative to the root.
        splits: The list of images of each split, relative to the root.
        images: The image folder, relative to the root; None if region features replace the pictures.
    """

    annotations: str
    splits: dict[str, str]
    images: str | None = "flickr30k-images"

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        root = data_folder(root, self.annotations)
        if split not in self.splits:
            raise missing_split(split, {name: len(self.read(root, name)) for name in self.splits}, str(root))
        captions = self._captions(root / self.annotations)
        endings = {Path(name).stem: name for name in captions}
        places: dict[str, str] = {}
        for row in _rows(root / self.splits[split], ("image",)):
            listed = row.text("image").strip()
            name = listed if listed in captions else endings.get(listed)
            if name is None:
                row.fail("image", f"names {listed!r}, which {root / self.annotations} does not describe")
            register_image_id(places, name, row, "image")
            name_inside(root, Record({"image": name}, row.where), "image")
        images = None if self.images is None else FolderImages(image_folder(root / self.images), list(places))
        return Split(list(places), [tuple(captions[name]) for name in places], images)

    def _captions(self, file: Path) -> dict[str, list[str]]:
        captions: dict[str, list[str]] = {}
        for row in _rows(file, ("image", "caption")):
            name, mark, number = row.text("image").rpartition("#")
            if not mark or not number.isdecimal():
                row.fail("image", f"must be NAME#NUMBER, not {row.text('image')!r}")
            captions.setdefault(name, []).extend(row.caption("caption"))
        return captions


@dataclass(eq=False)
class Flickr30kHub(Source):
    """The hub's `flickr_annotations_30k.csv` (one row per image, with its captions as JSON) and the unpacked images.

    An image's id is its file name.

    Args:
        annotations: The table, relative to the root.
        images: The image folder, relative to the root; None if region features replace the pictures.
    """

    annotations: str = "flickr_annotations_30k.csv"
    images: str | None = "flickr30k-images"

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        root = data_folder(root, self.annotations)
        file = root / self.annotations
        sizes: dict[str, int] = {}
        places: dict[str, str] = {}
        captions: list[tuple[str, ...]] = []
        for line, cells in csv_rows(file, required=("raw", "split", "filename")):
            row = Record(cells, f"{file}, line {line}")
            name = row.text("split")
            sizes[name] = sizes.get(name, 0) + 1
            if name == split:
                texts = Record({"raw": parse_json(row.text("raw"), f"{row.where}, field 'raw'")}, row.where)
                captions.append(texts.captions("raw"))
                register_image_id(places, name_inside(root, row, "filename"), row, "filename")
        if not places:
            raise missing_split(split, sizes, str(file))
        images = None if self.images is None else FolderImages(image_folder(root / self.images), list(places))
        return Split(list(places), captions, images)


def _rows(file: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    """The lines of a file, split into the fields at the first tabs; empty lines are skipped."""
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            cells = line.rstrip("\r\n").split("\t", len(fields) - 1)
            yield Record(dict(zip(fields, cells, strict=False)), f"{file}, line {number}")
