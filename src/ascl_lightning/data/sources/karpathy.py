"""Karpathy's split files of Flickr8k, Flickr30K and MSCOCO (Karpathy and Fei-Fei, CVPR 2015)."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.files import (
    FolderImages,
    all_numbers,
    data_folder,
    image_folder,
    name_inside,
    read_json,
    register_image_id,
)
from ascl_lightning.data.sources.records import Record


@dataclass(eq=False)
class KarpathyJson(Source):
    """`dataset_flickr8k.json`, `dataset_flickr30k.json` or `dataset_coco.json`, with a folder of images.

    An image's id is its file name, a caption's number its `sentid`. The field `filepath` (MSCOCO: `train2014`,
    `val2014`) names a sub-folder of the image folder.

    Args:
        annotations: The JSON file, relative to the root.
        images: The image folder, relative to the root; None if region features replace the pictures.
        restval_in_train: Whether MSCOCO's split `restval` is part of `train`, as is usual, or a separate split.
    """

    annotations: str
    images: str | None = "images"
    restval_in_train: bool = True

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        root = data_folder(root, self.annotations)
        file = root / self.annotations
        by_split = [(self._split_of(image), image) for image in read_json(file).records("images")]
        records = [image for name, image in by_split if name == split]
        if not records:
            raise missing_split(split, Counter(name for name, _ in by_split), str(file))
        folder = None if self.images is None else image_folder(root / self.images)
        return _to_split(records, folder)

    def _split_of(self, image: Record) -> str:
        split = image.text("split")
        return "train" if split == "restval" and self.restval_in_train else split


def _to_split(records: list[Record], folder: Path | None) -> Split:
    places: dict[str, str] = {}
    captions: list[tuple[str, ...]] = []
    numbers: list[int | None] = []
    names: list[str] = []
    folders: set[str] = set()
    for image in records:
        register_image_id(places, image.text("filename"), image, "filename")
        kept = [(text, said.number("sentid")) for said in image.records("sentences") for text in said.caption("raw")]
        captions.append(tuple(text for text, _ in kept))
        numbers.extend(number for _, number in kept)
        if folder is not None:
            names.append(_name(image, folder, folders))
    images = None if folder is None else FolderImages(folder, names)
    return Split(list(places), captions, images, caption_ids=all_numbers(numbers))


def _name(image: Record, folder: Path, folders: set[str]) -> str:
    name = name_inside(folder, image, "filename")
    if not image.has("filepath"):
        return name
    below = name_inside(folder, image, "filepath")
    if below not in folders:
        image_folder(folder / below)
        folders.add(below)
    return f"{below}/{name}"
