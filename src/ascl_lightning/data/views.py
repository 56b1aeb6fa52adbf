"""One split as encoders take it: pictures and captions by row, or their extracted features."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from ascl_lightning.data.augment.image_operations import ImageOperation, choose_operation
from ascl_lightning.data.batch import Features, ImageSpec, ImageViews, PixelSpec, RegionSpec
from ascl_lightning.data.image_views import PLAIN, ImageView
from ascl_lightning.data.images import ImageBytes, open_image, open_square, to_square
from ascl_lightning.data.sources import Split
from ascl_lightning.data.stored_features import SplitFeatures
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import Series, keyed_rng

Picture = np.ndarray | None
"""Pixels of one image, (3, S, S); None if its features are stored."""


@dataclass(frozen=True)
class Augmentation:
    """Changes of training pictures.

    Args:
        crop: Crop each picture at random.
        operations: Image operations; at most one is applied to a picture, each to its share of them.
    """

    crop: bool = False
    operations: tuple[ImageOperation, ...] = ()

    def __bool__(self) -> bool:
        return self.crop or bool(self.operations)


def load_picture(
    image: Path | ImageBytes | np.ndarray,
    spec: PixelSpec,
    augmentation: Augmentation,
    others: Sequence[Path | ImageBytes | np.ndarray] | np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, ImageOperation | None]:
    """A training picture, (3, S, S), and the operation that changed it, if any.

    Args:
        image: Path, encoded bytes or pixels.
        spec: Input of the encoder.
        augmentation: What to apply.
        others: Pictures from which operations draw another one.
        rng: Source of all draws.

    Raises:
        UserError: If a picture cannot be read.
    """
    operation = choose_operation(augmentation.operations, rng)
    if operation is None:
        return _square(image, spec, rng if augmentation.crop else None), None
    made = operation(decode(image, spec), lambda: decode(others[int(rng.integers(len(others)))], spec), rng)
    # another random crop could remove everything that the caption describes
    return to_square(made, spec), operation


def _square(
    image: Path | ImageBytes | np.ndarray, spec: PixelSpec, rng: np.random.Generator | None, view: ImageView = PLAIN
) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return to_square(Image.fromarray(image), spec, rng, view)
    return open_square(image, spec, rng, view)


def decode(image: Path | ImageBytes | np.ndarray, spec: PixelSpec) -> Image.Image:
    """A picture, large enough for the encoder even if half of each side is cropped.

    Raises:
        UserError: If it cannot be read.
    """
    return Image.fromarray(image) if isinstance(image, np.ndarray) else open_image(image, min_side=2 * spec.size)


@dataclass
class SplitView:
    """One split, with images and captions addressed by row.

    Args:
        split: Images and captions.
        spec: Input of the image encoder.
        features: Extracted features, which replace pictures and captions.
        with_tokens: Whether to read local tokens from `features`.
    """

    split: Split
    spec: ImageSpec
    features: SplitFeatures = field(default_factory=SplitFeatures)
    with_tokens: bool = True

    def __post_init__(self) -> None:
        self.use(self.features)

    def use(self, features: SplitFeatures) -> None:
        """Replaces the extracted features."""
        self.features = features if self.with_tokens else features.pooled_alone()

    @cached_property
    def text_offsets(self) -> Int[np.ndarray, " N_plus_1"]:
        """Row of each image's first caption, and finally the number of captions, (N + 1,)."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.split.num_captions)])

    def text_rows(self, row: int) -> range:
        """Rows of an image's captions."""
        return range(int(self.text_offsets[row]), int(self.text_offsets[row + 1]))

    @property
    def images(self) -> Any:  # `Images`; a check of that type would look one up
        """The pictures of the source.

        Raises:
            UserError: If the source has no pictures, or the encoder takes region features.
        """
        if isinstance(self.spec, RegionSpec):
            raise UserError(
                "the image encoder takes region features: run `ascl extract --regions ... --out DIR` once, "
                "then set --data.source ExtractedFeatures --data.root DIR"
            )
        if self.split.images is None:
            raise UserError("the source has captions only: set its `images`, or use an encoder of region features")
        return self.split.images

    def use_made_texts(self, operations: str | None, augmented: bool) -> None:
        """Uses stored T+ and T- if the configuration's operations made them.

        Args:
            operations: Identifies the operations of the configuration; None if it has none.
            augmented: Whether pictures are augmented.

        Raises:
            UserError: If they were made by others, or images are stored but pictures would be augmented.
        """
        texts = self.features.texts
        if self.features.images is not None and augmented:
            raise UserError("features were extracted of whole pictures: remove augment and image_operations")
        if texts is None or not texts.num_variants:
            return
        if operations is None:
            self.use(replace(self.features, texts=texts.captions_alone()))
        elif texts.operations != operations:
            raise UserError(
                f"{texts.table.folder}: its texts were made by other operations than those of the config: "
                f"extract again, or with --variants 0 to make texts while training"
            )

    def check_images(self) -> None:
        """Checks that the split has input for the image encoder.

        Raises:
            UserError: If it has neither pictures for the encoder nor extracted features.
        """
        if self.features.images is None:
            _ = self.images

    def picture(self, row: int, view: ImageView = PLAIN) -> Picture:
        """One image as evaluation passes it to the encoder, or in another view.

        Raises:
            UserError: If it cannot be read, or the source has no pictures and no features.
        """
        if self.features.images is not None or isinstance(self.spec, RegionSpec):
            return None
        return _square(self.images[row], self.spec, None, view)

    def training_picture(
        self, row: int, augmentation: Augmentation, rng: np.random.Generator
    ) -> tuple[Picture, ImageOperation | None]:
        """One image as training passes it to the encoder, and the operation that changed it, if any.

        Raises:
            UserError: As `picture`.
        """
        if self.features.images is not None or isinstance(self.spec, RegionSpec):
            return None, None
        return load_picture(self.images[row], self.spec, augmentation, self.images, rng)

    def draw_view(self, row: int, seed: int, epoch: int) -> int:
        """Number of the stored view that training shows of an image in an epoch; 0 is the plain one."""
        num_views = self.features.num_views
        return int(keyed_rng(seed, epoch, row, Series.VIEW).integers(num_views)) if num_views > 1 else 0

    def collate(self, rows: Int[Tensor, " N"], pictures: Sequence[Picture], views: Sequence[int]) -> Tensor | Features:
        """Collates the pictures of a training batch, uint8 (N, 3, S, S), or their features in the drawn views."""
        if self.features.images is None:
            return collate_pictures(pictures)
        return self.features.drawn(rows, torch.tensor(views, dtype=torch.long))

    def collate_evaluation(
        self, rows: Int[Tensor, " N"], pictures: Sequence[Picture]
    ) -> Tensor | Features | ImageViews:
        """Collates the pictures of an evaluation batch, or their features in all views."""
        return collate_pictures(pictures) if self.features.images is None else self.features.every_view(rows)


def collate_pictures(pictures: Sequence[Picture]) -> Tensor:
    """Stacks pictures to uint8 (N, 3, S, S)."""
    return torch.from_numpy(np.stack([picture for picture in pictures if isinstance(picture, np.ndarray)]))
