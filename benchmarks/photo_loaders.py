"""Training batches of a COCO folder: by our loader, and by the two loaders that users would write themselves.

All three return 64 photos and the token ids of a random caption of each. A photo is cropped at random (half to all of
its area, aspect 3:4 to 4:3; in evaluation at the centre) and resized to 224 x 224 with the antialiased bicubic filter.
"""

import contextlib
import io
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from torch.utils.data import DataLoader
from torchvision.datasets import CocoCaptions as TorchvisionCaptions
from torchvision.transforms import InterpolationMode, v2

from ascl_lightning.data.batch import PixelSpec, TextSpec
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.images import CROP_AREA, CROP_ASPECT
from ascl_lightning.data.sources import CocoCaptions
from ascl_lightning.data.text import Tokenizer, clean_caption

MEAN = STD = (0.5, 0.5, 0.5)
BATCH, SIZE = 64, 224
PHOTOS, CAPTIONS = "train2017", "annotations/captions_train2017.json"
_BICUBIC = InterpolationMode.BICUBIC


def our_data(root: Path, num_workers: int, augment: bool) -> RetrievalDataModule:
    """Decodes JPEGs no larger than the crop needs, and returns uint8: the model normalises on its device."""
    datamodule = RetrievalDataModule(
        CocoCaptions({"train": CAPTIONS}, {"train": PHOTOS}, val_share=0.01),
        str(root),
        captions_per_image=1,
        batch_size=BATCH,
        augment=augment,
        num_workers=num_workers,
        image_spec=PixelSpec(SIZE, MEAN, STD),
        text_spec=TextSpec(max_length=32, vocab_size=4096),
    )
    datamodule.setup("fit")
    return datamodule


class OurLoader:
    """Images and texts of our batches; `floats` normalises the images here instead of in the model."""

    def __init__(self, datamodule: RetrievalDataModule, floats: bool) -> None:
        self._loader = datamodule.train_dataloader()
        self._floats = floats

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        for batch in self._loader:
            yield batch.images.float().div_(255).sub_(mean).div_(std) if self._floats else batch.images, batch.texts


def torchvision_loader(root: Path, num_workers: int, augment: bool, tokenizer: Tokenizer) -> DataLoader[Any]:
    """`CocoCaptions` with v2 transforms of Pillow images, as in torchvision's training recipes."""

    def collate(items: Sequence[tuple[torch.Tensor, list[str]]]) -> Any:
        return _batch([pixels for pixels, _ in items], [captions for _, captions in items], tokenizer)

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        dataset = TorchvisionCaptions(str(root / PHOTOS), str(root / CAPTIONS), transform=_transform(augment))
    return _loader(dataset, num_workers, collate)


def datasets_loader(root: Path, num_workers: int, augment: bool, tokenizer: Tokenizer) -> DataLoader[Any]:
    """Hugging Face `datasets` with an `Image` column that it decodes, and `with_transform`."""
    transform = _transform(augment)

    def transform_rows(rows: dict[str, Any]) -> dict[str, Any]:
        return {
            "pixels": [transform(image.convert("RGB")) for image in rows["image"]],
            "captions": rows["captions"],
        }

    def collate(items: Sequence[dict[str, Any]]) -> Any:
        return _batch([item["pixels"] for item in items], [item["captions"] for item in items], tokenizer)

    split = CocoCaptions({"train": CAPTIONS}, {"train": PHOTOS}).read(root, "train")
    assert split.images is not None
    columns = {"image": list(map(str, split.images)), "captions": list(map(list, split.captions))}
    dataset = Dataset.from_dict(columns).cast_column("image", Image()).with_transform(transform_rows)
    return _loader(dataset, num_workers, collate)


def _transform(augment: bool) -> v2.Transform:
    crop = v2.RandomResizedCrop(SIZE, CROP_AREA, CROP_ASPECT, _BICUBIC, antialias=True)
    centre = v2.Compose([v2.Resize(SIZE, _BICUBIC, antialias=True), v2.CenterCrop(SIZE)])
    to_floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return v2.Compose([crop if augment else centre, *to_floats])


def _batch(pixels: Sequence[torch.Tensor], captions: Sequence[Sequence[str]], tokenizer: Tokenizer) -> Any:
    return torch.stack(list(pixels)), tokenizer([clean_caption(random.choice(texts)) for texts in captions])


def _loader(dataset: Any, num_workers: int, collate: Callable[..., Any]) -> DataLoader[Any]:
    return DataLoader(
        dataset, BATCH, shuffle=True, num_workers=num_workers, collate_fn=collate, persistent_workers=num_workers > 0
    )
