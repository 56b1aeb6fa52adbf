"""Map-style data sets over one split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample, AsymmetrySampler
from ascl_lightning.data.augment.caption_corpus import CaptionCorpus
from ascl_lightning.data.augment.image_operations import ImageOperation
from ascl_lightning.data.augment.operation import TextContext, TextOperation
from ascl_lightning.data.augment.pair_mixing import PairMixing, Partner
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.image_views import PLAIN, ImageView
from ascl_lightning.data.samplers import MixedPairs
from ascl_lightning.data.text import Vocabulary, clean_caption
from ascl_lightning.data.views import Augmentation, Picture, SplitView
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import Series, keyed_rng, sampling_key

MAX_REPLACEMENTS = 20
"""Maximum number of consecutive unreadable pictures that a training sample may draw."""


@dataclass
class TrainItem:
    """One (image, caption) pair and the texts made from it."""

    image_row: int
    text_row: int
    picture: Picture
    texts: AsymmetrySample | None
    """None if all of them are stored as features."""
    key: int
    epoch: int
    image_operation: ImageOperation | None = None
    """The operation that changed the picture, if any."""
    faults: tuple[str, ...] = ()
    """Errors of the unreadable pictures that this item replaces."""
    partner: Partner | None = None
    """The pair that this one is mixed with, if any; features are mixed by `Collate`."""
    image_view: int = 0
    """Number of the stored view of the image; 0 is the plain one."""


@dataclass(frozen=True)
class TextMaker:
    """Makes the texts of a training pair.

    Args:
        sampler: Makes T+ and T-.
        vocabulary: Vocabulary of the training captions, for operations that replace words.
        corpus: Word index of the training captions, for operations that use captions of other images.
        seed: Keys all draws, with epoch and index.
    """

    sampler: AsymmetrySampler
    vocabulary: Vocabulary | None
    corpus: CaptionCorpus | None
    seed: int

    def only(self, positive: TextOperation | None = None, negative: TextOperation | None = None) -> "TextMaker":
        """The same draws with a single operation of each kind, or with none."""
        lists = ([] if operation is None else [operation] for operation in (positive, negative))
        return replace(self, sampler=AsymmetrySampler(*lists))

    def make(
        self, captions: tuple[str, ...], caption: int, image: int | None, epoch: int, index: int
    ) -> AsymmetrySample:
        """The texts made from one of an image's captions."""
        context = TextContext(captions, self.vocabulary, self.corpus, image)
        return self.sampler.sample(captions[caption], context, seed=self.seed, epoch=epoch, index=index)


class TrainDataset(Dataset[TrainItem]):
    """Pairs of an image and one of its captions, with keys (index, epoch).

    If a picture is unreadable, another pair replaces it, drawn by the same key, and the item records the error.

    Args:
        view: The split.
        pairs: The pair at each index of an epoch.
        texts: Makes T+ and T-.
        augmentation: Changes of pictures.
        mixing: Mixes pairs with others; None: not.
    """

    def __init__(
        self,
        view: SplitView,
        pairs: MixedPairs,
        texts: TextMaker,
        augmentation: Augmentation,
        mixing: PairMixing | None = None,
    ) -> None:
        self.view = view
        self.pairs = pairs
        self._texts = texts
        self._augmentation = augmentation
        self._mixing = mixing

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> TrainItem:
        """A pair and its texts.

        Raises:
            UserError: If `MAX_REPLACEMENTS` pictures in a row cannot be read.
        """
        index, epoch = key
        faults: list[str] = []
        for attempt in range(MAX_REPLACEMENTS):
            image, caption = self.pairs.pair(index, epoch)
            try:
                rng = keyed_rng(self._texts.seed, epoch, index, Series.PICTURE)
                picture, operation = self.view.training_picture(image, self._augmentation, rng)
                partner = self._partner(index, epoch)
                if partner is not None and not partner.of_features and picture is not None:
                    picture = self._blended(picture, partner, index, epoch)
            except UserError as error:
                faults.append(str(error))
                draw = keyed_rng(self._texts.seed, epoch, index, Series.REPLACEMENT, attempt)
                index = int(draw.integers(len(self)))
            else:
                return TrainItem(
                    image_row=image,
                    text_row=self.view.text_rows(image)[caption],
                    picture=picture,
                    texts=self._made(image, caption, epoch, index, partner),
                    key=sampling_key(self._texts.seed, epoch, index),
                    epoch=epoch,
                    image_operation=operation,
                    faults=tuple(faults),
                    partner=partner,
                    image_view=self.view.draw_view(image, self._texts.seed, epoch),
                )
        raise UserError(f"{len(faults)} pictures in a row cannot be read; run `ascl check`. The first: {faults[0]}")

    def caption_length(self, index: int, epoch: int) -> int:
        """Number of words of the caption at an index of an epoch."""
        image, caption = self.pairs.pair(index, epoch)
        return self.view.split.captions[image][caption].count(" ") + 1

    def _partner(self, index: int, epoch: int) -> Partner | None:
        if self._mixing is None:
            return None
        rng = keyed_rng(self._texts.seed, epoch, index, Series.MIXING)
        share, other = self._mixing.share(rng), int(rng.integers(len(self)))
        if share is None:
            return None
        image, caption = self.pairs.pair(other, epoch)
        row = self.view.text_rows(image)[caption]
        return Partner(image, caption, row, share, self._mixing.mixes_features)

    def _blended(self, picture: np.ndarray, partner: Partner, index: int, epoch: int) -> np.ndarray:
        rng = keyed_rng(self._texts.seed, epoch, index, Series.PARTNER_PICTURE)
        other, _ = self.view.training_picture(partner.image_row, self._augmentation, rng)
        assert other is not None
        mixed = partner.share * picture.astype(np.float32) + (1 - partner.share) * other
        blended: np.ndarray = np.rint(mixed).astype(np.uint8)
        return blended

    def _made(
        self, image: int, caption: int, epoch: int, index: int, partner: Partner | None
    ) -> AsymmetrySample | None:
        stored = self.view.features.texts
        if stored is not None and (stored.num_variants or not self._texts.sampler):
            return None
        made = self._texts.make(self.view.split.captions[image], caption, image, epoch, index)
        if partner is None or partner.of_features:
            return made
        other = clean_caption(self.view.split.captions[partner.image_row][partner.caption])
        return replace(made, text=f"{made.text} {other}")


@dataclass
class EvalItem:
    """One image with all its captions."""

    image_row: int
    picture: Picture
    captions: list[str]
    fault: str | None = None
    """Error of an unreadable picture, which is black; no metric may use it."""


class EvalDataset(Dataset[EvalItem]):
    """Images of a split with all their captions; the epoch of a key (index, epoch) has no effect.

    Args:
        view: The split.
        with_captions: Whether items have captions.
        image_view: The view of the pictures.
    """

    def __init__(self, view: SplitView, with_captions: bool = True, image_view: ImageView = PLAIN) -> None:
        self.view = view
        self._with_captions = with_captions
        self._image_view = image_view

    def __len__(self) -> int:
        return len(self.view.split)

    def __getitem__(self, key: tuple[int, int]) -> EvalItem:
        row, _ = key
        texts: Sequence[str] = self.view.split.captions[row] if self._with_captions else ()
        captions = [clean_caption(caption) for caption in texts]
        try:
            return EvalItem(row, self.view.picture(row, self._image_view), captions)
        except UserError as error:
            if not isinstance(self.view.spec, PixelSpec):
                raise
            size = self._image_view.spec(self.view.spec).size
            black = np.zeros((3, size, size), np.uint8)
            return EvalItem(row, black, captions, str(error))
