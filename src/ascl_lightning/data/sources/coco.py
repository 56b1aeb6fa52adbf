"""MSCOCO's own caption files (Lin et al., ECCV 2014; Chen et al., 2015)."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
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
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.number_types import Seed


class CocoCaptions(Source):
    """`captions_*.json` of COCO 2014 or 2017, with one file and one folder of images per split.

    An image's id is its COCO id, a caption's number the id of its annotation. Images without annotations have no
    captions. If there is only a training file, `val_share` and `test_share` split it; which images go to which split
    depends on their ids and the seed alone, not on their order in the file.

    Args:
        annotations: Caption file of each split, relative to the root.
        images: Image folder of each split, relative to the root; None if region features replace the pictures.
        val_share: Share of the training file's images that becomes `val`, in [0, 1), at least one image unless 0.
        test_share: Likewise for `test`.
        seed: Seed of the split.

    Raises:
        UserError: If a split lacks its folder, the shares leave nothing to train on, or a split has a file and a share.
    """

    def __init__(
        self,
        annotations: dict[str, str],
        images: dict[str, str] | None,
        val_share: float = 0.0,
        test_share: float = 0.0,
        seed: Seed = 0,
    ) -> None:
        shares = {"test": test_share, "val": val_share}
        if min(shares.values()) < 0 or sum(shares.values()) >= 1:
            raise UserError(
                f"val_share ({val_share}) and test_share ({test_share}) must be >= 0 and sum to less than 1"
            )
        self.annotations = annotations
        self.images = images
        self.seed = seed
        self.shares = {split: share for split, share in shares.items() if share > 0}
        for split in annotations.keys() - (annotations if images is None else images).keys():
            raise UserError(f"images: give the folder of split '{split}', as annotations gives its file")
        for split in self.shares.keys() & annotations.keys():
            raise UserError(f"split '{split}' has its own file, so {split}_share must be 0")
        if self.shares and "train" not in annotations:
            raise UserError("val_share and test_share take their images from split 'train': give it in annotations")

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        root = data_folder(root, ", ".join(self.annotations.values()))
        origin = "train" if split in self.shares else split
        if origin not in self.annotations:
            sizes = {name: len(self.read(root, name)) for name in (*self.annotations, *self.shares)}
            raise missing_split(split, sizes, str(root))
        folder = None if self.images is None else image_folder(root / self.images[origin])
        whole = _read_file(root / self.annotations[origin], folder)
        if origin != "train" or not self.shares:
            return whole
        drawn = _draw(whole.image_ids, self.shares, self.seed)
        rows = [row for row, image_id in enumerate(whole.image_ids) if drawn.get(image_id, "train") == split]
        if not rows:
            raise UserError(f"{root / self.annotations[origin]}: {len(whole)} images are too few for the shares")
        return whole.select(rows)


def _read_file(file: Path, folder: Path | None) -> Split:
    content = read_json(file)
    places: dict[str, str] = {}
    names: list[str] = []
    captions: dict[str, list[str]] = {}
    numbers: dict[str, list[int | None]] = {}
    for image in content.records("images"):
        image_id = image.identifier("id")
        register_image_id(places, image_id, image, "id")
        if folder is not None:
            names.append(name_inside(folder, image, "file_name"))
        captions[image_id], numbers[image_id] = [], []
    if not captions:
        content.fail("images", "is empty")
    for annotation in content.records("annotations"):
        image_id = annotation.identifier("image_id")
        if image_id not in captions:
            annotation.fail("image_id", f"names the image {image_id}, which is not among the file's images")
        for text in annotation.caption("caption"):
            captions[image_id].append(text)
            numbers[image_id].append(annotation.number("id"))
    images = None if folder is None else FolderImages(folder, names)
    caption_ids = all_numbers([number for of_image in numbers.values() for number in of_image])
    return Split(list(captions), [tuple(texts) for texts in captions.values()], images, caption_ids=caption_ids)


def _draw(image_ids: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of each image that leaves the training split: images sorted by a keyed hash of their ids, then cut."""
    line = sorted(image_ids, key=lambda image_id: blake2b(f"{seed}:{image_id}".encode()).digest())
    drawn: dict[str, str] = {}
    start = 0
    for split, share in shares.items():
        end = start + max(1, round(share * len(line)))
        drawn.update(dict.fromkeys(line[start:end], split))
        start = end
    return drawn
