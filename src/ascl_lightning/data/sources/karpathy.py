"""Karpathy's split files of Flickr8k, Flickr30K and MSCOCO (Karpathy and Fei-Fei, CVPR 2015)."""

from collections import Counter
from pathlib import Path

from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.files import Record, claim, data_folder, image_folder, path_inside, read_json
from ascl_lightning.errors import UserError


class KarpathyJson(Source):
    """`dataset_flickr8k.json`, `dataset_flickr30k.json` or `dataset_coco.json` beside a folder of images.

    An image's id is its file name. Where the file gives a `filepath` (MSCOCO: `train2014`, `val2014`), that is a
    sub-folder of the image folder.

    Args:
        annotations: The JSON file, under the root.
        images: The folder of images, under the root.
        restval_in_train: Whether the split `restval` of MSCOCO joins `train`, as the field does; otherwise it is a
            split of its own.
        suffix: Ending to put in the place of each file name's own, for example `.npy` where the folder holds region
            features, one file an image.

    Raises:
        UserError: If `suffix` does not start with a dot.
    """

    def __init__(
        self, annotations: str, images: str = "images", restval_in_train: bool = True, suffix: str | None = None
    ) -> None:
        if suffix is not None and not suffix.startswith("."):
            raise UserError(f"suffix: write it with its dot, '.{suffix}'")
        self.annotations = annotations
        self.images = images
        self.restval_in_train = restval_in_train
        self.suffix = suffix

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        root = data_folder(root, self.annotations)
        file = root / self.annotations
        by_split = [(self._split_of(image), image) for image in read_json(file).records("images")]
        records = [image for name, image in by_split if name == split]
        if not records:
            raise missing_split(split, Counter(name for name, _ in by_split), str(file))
        return self._to_split(records, image_folder(root / self.images))

    def _split_of(self, image: Record) -> str:
        split = image.text("split")
        return "train" if split == "restval" and self.restval_in_train else split

    def _to_split(self, records: list[Record], folder: Path) -> Split:
        places: dict[str, str] = {}
        captions: list[tuple[str, ...]] = []
        paths: list[Path] = []
        folders: dict[str, Path] = {}
        for image in records:
            claim(places, image.text("filename"), image, "filename")
            captions.append(tuple(sentence.text("raw") for sentence in image.records("sentences")))
            paths.append(self._path(image, folder, folders))
        return Split(list(places), captions, paths)

    def _path(self, image: Record, folder: Path, folders: dict[str, Path]) -> Path:
        if image.has("filepath"):
            name = image.text("filepath")
            if name not in folders:
                folders[name] = image_folder(path_inside(folder, image, "filepath"))
            folder = folders[name]
        path = path_inside(folder, image, "filename")
        return path if self.suffix is None else path.with_suffix(self.suffix)
