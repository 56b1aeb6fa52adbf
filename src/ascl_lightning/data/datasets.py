"""Map-style data sets over one split, and how their items become an `ImageTextBatch`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ascl_lightning.data.asymmetry import AsymmetrySample, AsymmetrySampler, TextContext, sampling_key
from ascl_lightning.data.batch import Features, ImageSpec, ImageTextBatch, NegativeTexts, RegionSpec, TokenizedTexts
from ascl_lightning.data.features import FeatureTable
from ascl_lightning.data.images import open_image, to_square
from ascl_lightning.data.regions import RegionFeatures, load_regions
from ascl_lightning.data.samplers import PairIndex
from ascl_lightning.data.sources import Split
from ascl_lightning.data.text import Tokenizer, Vocabulary, clean_caption

Picture = np.ndarray | RegionFeatures | None
"""What one image is fed as: pixels (3, S, S), regions, or nothing where a table holds the tower's output already."""


@dataclass
class SplitView:
    """One split as the encoders want it, its images and captions addressed by row.

    Args:
        split: Images and captions.
        spec: What the image encoder is fed.
        image_table: The image tower's stored output, row by image; pictures are not read where it is given.
        text_table: The text tower's stored output, row by caption.
    """

    split: Split
    spec: ImageSpec
    image_table: FeatureTable | None = None
    text_table: FeatureTable | None = None

    @cached_property
    def text_offsets(self) -> np.ndarray:
        """Row of each image's first caption, and the number of captions last, (N + 1,)."""
        return np.cumsum([0, *map(len, self.split.captions)])

    def text_rows(self, row: int) -> range:
        """Rows of an image's captions."""
        return range(int(self.text_offsets[row]), int(self.text_offsets[row + 1]))

    def picture(self, row: int, rng: np.random.Generator | None = None) -> Picture:
        """One image as the encoder is fed it; with `rng`, randomly cropped."""
        if self.image_table is not None:
            return None
        image = self.split.images[row]
        if isinstance(self.spec, RegionSpec):
            return load_regions(image, self.spec)
        if not isinstance(image, np.ndarray):
            return to_square(open_image(image, min_side=2 * self.spec.size), self.spec, rng)
        if rng is None and image.shape[0] == self.spec.size:
            return image.transpose(2, 0, 1)
        return to_square(Image.fromarray(image), self.spec, rng)

    def collate(self, rows: Int[Tensor, " N"], pictures: Sequence[Picture]) -> Tensor | Features:
        """Pictures (N, 3, S, S) uint8, or features, of a batch."""
        if self.image_table is not None:
            return self.image_table.gather(rows)
        if isinstance(self.spec, RegionSpec):
            fields = ("pooled", "tokens", "mask")
            return Features(*(torch.from_numpy(np.stack([getattr(p, f) for p in pictures])) for f in fields))
        return torch.from_numpy(np.stack([p for p in pictures if isinstance(p, np.ndarray)]))


@dataclass
class TrainItem:
    """One (image, caption) pair and the texts made from it."""

    image_row: int
    text_row: int
    picture: Picture
    texts: AsymmetrySample
    key: int


class TrainDataset(Dataset[TrainItem]):
    """Pairs of an image and one of its captions, asked for as (index, epoch).

    Args:
        view: The split.
        pairs: Which pair an index stands for in an epoch.
        asymmetry: Makes T+ and T-.
        vocabulary: Of the training captions, for operations that replace words.
        augment: Crop each picture at random.
        seed: With epoch and index the key of every draw.
    """

    def __init__(
        self,
        view: SplitView,
        pairs: PairIndex,
        asymmetry: AsymmetrySampler,
        vocabulary: Vocabulary | None,
        augment: bool,
        seed: int,
    ) -> None:
        self.view = view
        self._pairs = pairs
        self._asymmetry = asymmetry
        self._vocabulary = vocabulary
        self._augment = augment
        self._seed = seed

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, key: tuple[int, int]) -> TrainItem:
        index, epoch = key
        image, caption = self._pairs.pair(index, epoch)
        captions = self.view.split.captions[image]
        # the stream of the crop lies beyond those of the texts, so that neither moves the other
        rng = np.random.default_rng([self._seed, epoch, index, 1_000]) if self._augment else None
        return TrainItem(
            image_row=image,
            text_row=self.view.text_rows(image)[caption],
            picture=self.view.picture(image, rng),
            texts=self._asymmetry.sample(
                captions[caption],
                TextContext(captions, self._vocabulary),
                seed=self._seed,
                epoch=epoch,
                index=index,
            ),
            key=sampling_key(self._seed, epoch, index),
        )


@dataclass
class EvalItem:
    """One image with all its captions."""

    image_row: int
    picture: Picture
    captions: list[str]


class EvalDataset(Dataset[EvalItem]):
    """Images of a split with all their captions, asked for as (index, epoch) like the training pairs."""

    def __init__(self, view: SplitView) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view.split)

    def __getitem__(self, key: tuple[int, int]) -> EvalItem:
        row, _ = key
        captions = [clean_caption(caption) for caption in self.view.split.captions[row]]
        return EvalItem(row, self.view.picture(row), captions)


@dataclass
class Collate:
    """Joins items to a batch; picklable, for worker processes."""

    view: SplitView
    tokenizer: Tokenizer

    def train(self, items: list[TrainItem]) -> ImageTextBatch:
        """Row i of every field of the batch stands for item i."""
        image_ids = torch.tensor([item.image_row for item in items])
        text_ids = torch.tensor([item.text_row for item in items])
        samples = [item.texts for item in items]
        texts, cut = self._texts(text_ids, [s.text for s in samples])
        positives, positives_cut = self._made([s.positive for s in samples])
        negatives, negatives_cut = self._made([s.negative for s in samples])
        both, both_cut = self._made([s.positive_negative for s in samples])
        originals = None if negatives is None else self.tokenizer([s.text for s in samples])[0]
        return ImageTextBatch(
            images=self.view.collate(image_ids, [item.picture for item in items]),
            image_ids=image_ids,
            texts=texts,
            text_ids=text_ids,
            text_image_ids=image_ids,
            sampling_keys=torch.tensor([item.key for item in items]),
            negatives=_negatives(negatives, originals, [s.negative_valid for s in samples]),
            positives=positives,
            positive_negatives=_negatives(both, positives, [s.positive_negative_valid for s in samples]),
            num_truncated=cut + positives_cut + negatives_cut + both_cut,
        )

    def evaluation(self, items: list[EvalItem]) -> ImageTextBatch:
        """N images and the texts of all of them, one image's after another's."""
        image_ids = torch.tensor([item.image_row for item in items])
        text_ids = torch.tensor(
            [row for item in items for row in self.view.text_rows(item.image_row)], dtype=torch.long
        )
        texts, cut = self._texts(text_ids, [caption for item in items for caption in item.captions])
        return ImageTextBatch(
            images=self.view.collate(image_ids, [item.picture for item in items]),
            image_ids=image_ids,
            texts=texts,
            text_ids=text_ids,
            text_image_ids=image_ids.repeat_interleave(torch.tensor([len(item.captions) for item in items])),
            num_truncated=cut,
        )

    def _texts(self, rows: Tensor, texts: list[str]) -> tuple[TokenizedTexts | Features, int]:
        if self.view.text_table is not None:
            return self.view.text_table.gather(rows), 0
        return self.tokenizer(texts)

    def _made(self, texts: list[str | None]) -> tuple[TokenizedTexts | None, int]:
        given = [text for text in texts if text is not None]
        return self.tokenizer(given) if given else (None, 0)


def _negatives(
    texts: TokenizedTexts | None, originals: TokenizedTexts | None, valid: list[bool]
) -> NegativeTexts | None:
    """T- with its validity: words that differ can still be the same tokens, beyond the limit or unknown alike."""
    if texts is None or originals is None:
        return None
    length = max(texts.input_ids.shape[1], originals.input_ids.shape[1])
    differs = (_padded_ids(texts, length) != _padded_ids(originals, length)).any(dim=1)
    return NegativeTexts(texts, torch.tensor(valid) & differs)


def _padded_ids(texts: TokenizedTexts, length: int) -> Tensor:
    """Token ids, -1 at padding, (M, length)."""
    ids = texts.input_ids.masked_fill(~texts.attention_mask, -1)
    return F.pad(ids, (0, length - ids.shape[1]), value=-1)
