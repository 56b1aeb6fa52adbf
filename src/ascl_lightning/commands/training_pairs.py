"""Training pairs from the training loader, with the images and captions they were made from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
from PIL import Image

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample, MadeText
from ascl_lightning.data.augment.image_operations import ImageOperation
from ascl_lightning.data.augment.operation import AsymmetryType
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.datasets import TrainItem
from ascl_lightning.data.views import Augmentation, Picture, SplitView
from ascl_lightning.evaluation.page.pictures import has_pictures, original
from ascl_lightning.runtime.draws import keyed_rng


@dataclass(frozen=True)
class ShownText:
    """A text made by an operation, with its source.

    Args:
        label: Name to display.
        source: Text that it was made from.
        made: The made text. None if no operation is configured.
        type: Asymmetry type of the operation.
    """

    label: str
    source: str
    made: MadeText | None
    type: AsymmetryType | None

    @property
    def text(self) -> str | None:
        """The made text."""
        return None if self.made is None else self.made.text

    @property
    def made_by(self) -> str:
        """The operation with its type, or the reason why there is none."""
        if self.made is None:
            return "none configured"
        return f"{self.made.operation} ({self.type})" if self.made.valid else "masked: no operation changes it"

    @property
    def changes(self) -> list[tuple[str, str]]:
        """Runs of words in order, marked `del` if only the source has them, `ins` if only the made text has them."""
        before, after = self.source.split(), (self.text or "").split()
        stretches = []
        for kind, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if kind == "equal":
                stretches.append(("", before[start:end]))
            else:
                stretches += [("del", before[start:end]), ("ins", after[new_start:new_end])]
        return [(mark, " ".join(words)) for mark, words in stretches if words]


@dataclass(frozen=True)
class MadePicture:
    """An image made from another one by an operation."""

    operation: ImageOperation
    source: Image.Image
    picture: Image.Image


@dataclass(frozen=True)
class Origin:
    """Source of a training pair.

    Args:
        image_id: Id of the image.
        image_row: Row of the image in the split.
        captions: All captions of the image; only the pair's own if the data are streamed.
        caption: Index of the pair's caption.
        picture: The original image. None if the data have no images or are streamed.
    """

    image_id: str
    image_row: int
    captions: tuple[str, ...]
    caption: int
    picture: Image.Image | None


@dataclass(frozen=True)
class ShownPair:
    """A training pair with all texts and images made from it.

    Args:
        origin: Source of the pair.
        fed: The image as fed to the model. None if the data have no images.
        image_operation: Operation on the image, if any.
        text: T.
        made: T+, T- and (T+)-, in this order.
        faults: Errors of the unreadable images that this pair replaces.
        changed: Whether the fed image differs from the one that evaluation feeds.
    """

    origin: Origin
    fed: Image.Image | None
    image_operation: ImageOperation | None
    text: str
    made: list[ShownText]
    faults: tuple[str, ...]
    changed: bool

    @property
    def picture(self) -> Image.Image | None:
        """The original image, or the fed one if there is no original."""
        return self.origin.picture or self.fed


class TrainingPairs:
    """The pairs of an epoch in the order of the training loader.

    Args:
        datamodule: A data module before `setup`.
    """

    def __init__(self, datamodule: RetrievalDataModule) -> None:
        self._datamodule = datamodule
        asymmetry, augmentation = datamodule.asymmetry, datamodule.augmentation
        self._types = {operation.name: operation.type for operation in (*asymmetry.positives, *asymmetry.negatives)}
        self._image_operations = augmentation.operations
        datamodule.setup("fit")
        if not datamodule.streams:
            view = datamodule.view("train")
            datamodule.views["train"] = _ShownView(view.split, view.spec, view.features)

    def first(self, count: int, epoch: int) -> Iterator[ShownPair]:
        """The first pairs of an epoch.

        Raises:
            UserError: If their images cannot be read.
        """
        loader: Any = self._datamodule.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(epoch)
        for key in islice(chain.from_iterable(loader.batch_sampler), count):
            yield self._shown(loader.dataset[key])

    def each_text_operation(self, pair: ShownPair, epoch: int) -> Iterator[ShownText]:
        """The result of each configured operation for the caption of a pair."""
        maker, origin = self._datamodule.text_maker(), pair.origin
        of_image = origin.captions, origin.caption, origin.image_row, epoch, 0
        for operation in maker.sampler.positives:
            made = maker.only(positive=operation).make(*of_image)
            yield ShownText(str(operation), made.text, made.positive, operation.type)
        for operation in maker.sampler.negatives:
            made = maker.only(negative=operation).make(*of_image)
            yield ShownText(str(operation), made.text, made.negative, operation.type)

    def each_image_operation(self, pictures: Sequence[Image.Image], epoch: int) -> Iterator[MadePicture]:
        """The result of each configured operation for the first image; operations that join images use the others."""
        for number, operation in enumerate(self._image_operations if pictures else ()):
            rng = keyed_rng(self._datamodule.seed, epoch, number)
            made = operation(pictures[0], partial(_draw, pictures[1:] or pictures, rng), rng)
            yield MadePicture(operation, pictures[0], made)

    def _shown(self, item: TrainItem) -> ShownPair:
        texts, fed = self._datamodule.texts_of(item), None
        if isinstance(item.picture, np.ndarray):
            fed = Image.fromarray(item.picture.transpose(1, 2, 0))
        return ShownPair(
            origin=self._origin(item, texts.text),
            fed=fed,
            image_operation=item.image_operation,
            text=texts.text,
            made=self._made_texts(texts),
            faults=item.faults,
            changed=fed is not None and self._changed(item),
        )

    def _changed(self, item: TrainItem) -> bool:
        """Whether evaluation would feed the image differently; assumed of streamed images."""
        if self._datamodule.streams:
            return True
        plain = self._datamodule.view("train").picture(item.image_row)
        return not np.array_equal(np.asarray(item.picture), np.asarray(plain))

    def _origin(self, item: TrainItem, text: str) -> Origin:
        row = item.image_row
        if self._datamodule.streams:
            return Origin(f"image {row}", row, (text,), 0, None)
        view = self._datamodule.view("train")
        captions = view.split.captions[row]
        return Origin(view.split.image_ids[row], row, captions, _place(view, item), original(view, row))

    def _made_texts(self, sample: AsymmetrySample) -> list[ShownText]:
        made = (
            ("T+", sample.text, sample.positive),
            ("T-", sample.text, sample.negative),
            ("(T+)-", sample.positive.text if sample.positive else "", sample.positive_negative),
        )
        return [ShownText(*of, self._types.get(of[-1].operation or "") if of[-1] else None) for of in made]


def _draw(pictures: Sequence[Image.Image], rng: np.random.Generator) -> Image.Image:
    return pictures[int(rng.integers(len(pictures)))]


def _place(view: SplitView, item: TrainItem) -> int:
    """Index of the item's caption among those of its image."""
    return item.text_row - view.text_rows(item.image_row).start


class _ShownView(SplitView):
    """Gives no picture, in place of an error, if the source has captions only."""

    def check_images(self) -> None:
        pass

    def training_picture(
        self, row: int, augmentation: Augmentation, rng: np.random.Generator
    ) -> tuple[Picture, ImageOperation | None]:
        return super().training_picture(row, augmentation, rng) if has_pictures(self) else (None, None)
