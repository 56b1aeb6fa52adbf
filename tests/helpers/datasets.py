"""Small data sets, written on the spot in the layouts that users have; any test may use them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ascl_lightning.data.batch import RegionSpec

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown")
THINGS = ("dog", "child", "bicycle", "boat", "horse", "ball", "tree", "woman", "train")
DOINGS = ("runs beside", "stands near", "looks at", "waits for", "lies behind")


def write_picture(path: Path, index: int, size: tuple[int, int] = (40, 30)) -> None:
    """Write a picture of coloured blocks, another one for each index, in the kind that the path's ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(index).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path)


def write_regions(path: Path, index: int, spec: RegionSpec) -> None:
    """Write the region features of one image as `.npy`: `spec.num_regions` rows, or one fewer for odd indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = max(1, spec.num_regions - index % 2), spec.dim
    np.save(path, np.random.default_rng(index).random(shape, dtype=np.float32))


def make_captions(index: int, number: int) -> list[str]:
    """Captions of one image, of 6 to 10 words; the first ones of different images differ."""
    texts = []
    for i in range(number):
        a, b = index * 7 + i, index // 3 + i * 5 + 1
        text = f"A {COLOURS[a % 7]} {THINGS[b % 9]} {DOINGS[i % 5]} the {THINGS[a % 9]} number {index}"
        texts.append(text + " ." if i % 2 else text)
    return texts


def write_karpathy(
    root: Path,
    splits: Mapping[str, int],
    captions: int | Sequence[int] = 5,
    filename: str = "dataset_flickr8k.json",
    folder: str = "images",
    regions: RegionSpec | None = None,
    subfolders: Mapping[str, str] | None = None,
    first: int = 0,
) -> Path:
    """Write a data set in Karpathy's format.

    Args:
        root: Folder to write into.
        splits: Number of images of each split, `restval` perhaps among them.
        captions: Captions an image; of a list each image takes the next, again and again.
        filename: The JSON file's name.
        folder: The images' folder.
        regions: Write `.npy` region features in the place of pictures; the JSON still says `.jpg`.
        subfolders: The sub-folder of each split, noted as `filepath` (as MSCOCO has it: train2014, val2014).
        first: Number of the first image: pictures and captions of other numbers are others.

    Returns:
        The JSON file.
    """
    images = []
    counts = [captions] if isinstance(captions, int) else captions
    for split, size in splits.items():
        for _ in range(size):
            index = first + len(images)
            name = f"{split}_{index:04d}.jpg"
            texts = make_captions(index, counts[len(images) % len(counts)])
            sentences = [{"raw": text, "tokens": text.lower().split(), "imgid": index} for text in texts]
            image = {"filename": name, "imgid": index, "split": split, "sentences": sentences}
            path = root / folder / name
            if subfolders is not None:
                image |= {"filepath": subfolders[split], "cocoid": 1000 + index}
                path = root / folder / subfolders[split] / name
            images.append(image)
            if regions is None:
                write_picture(path, index)
            else:
                write_regions(path.with_suffix(".npy"), index, regions)
    file = root / filename
    file.write_text(json.dumps({"images": images, "dataset": "small"}), encoding="utf-8")
    return file


def write_coco(
    root: Path, splits: Mapping[str, int], captions: int | Sequence[int] = 5, year: int = 2017
) -> dict[str, Path]:
    """Write a data set in MSCOCO's own format: `annotations/captions_train2017.json` and the folder `train2017`.

    Args:
        root: Folder to write into.
        splits: Number of images of each split.
        captions: Captions an image; of a list each image takes the next, again and again.
        year: The year in the names.

    Returns:
        The caption file of each split.
    """
    counts = [captions] if isinstance(captions, int) else captions
    files: dict[str, Path] = {}
    first = 1000
    for split, size in splits.items():
        images, annotations = [], []
        for index in range(size):
            image_id = first + index
            name = f"{image_id:012d}.jpg"
            images.append({"id": image_id, "file_name": name, "height": 30, "width": 40})
            for text in make_captions(image_id, counts[index % len(counts)]):
                annotations.append({"image_id": image_id, "id": 10 * first + len(annotations), "caption": text})
            write_picture(root / f"{split}{year}" / name, image_id)
        first += size
        files[split] = root / "annotations" / f"captions_{split}{year}.json"
        files[split].parent.mkdir(exist_ok=True)
        # annotations come in no order of images, as in the original
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations[::-1]}
        files[split].write_text(json.dumps(content), encoding="utf-8")
    return files
