"""Collates items to an `ImageTextBatch`, tokenizes texts and decides which made texts are valid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample, MadeText
from ascl_lightning.data.augment.pair_mixing import Partner
from ascl_lightning.data.batch import Features, ImageTextBatch, MadeTexts, TokenizedTexts
from ascl_lightning.data.datasets import EvalItem, TrainItem
from ascl_lightning.data.stored_features import TextFeatures
from ascl_lightning.data.text import Tokenizer
from ascl_lightning.data.views import SplitView, collate_pictures
from ascl_lightning.errors import UserError


@dataclass
class PictureBatch:
    """Images without captions, and the errors of unreadable ones by their position."""

    images: Tensor
    faults: dict[int, str]


def collate_images(items: Sequence[EvalItem]) -> PictureBatch:
    """Collates the images of items; unreadable ones are black."""
    faults = {place: item.fault for place, item in enumerate(items) if item.fault is not None}
    return PictureBatch(collate_pictures([item.picture for item in items]), faults)


@dataclass
class Collate:
    """Collates items; can be pickled to worker processes.

    Args:
        view: The split of the items; None if they are streamed.
        tokenizer: Tokenizes texts that are not stored as features.
        images_once: Training batches hold each image once, also if several pairs have it with the same picture.
    """

    view: SplitView | None
    tokenizer: Tokenizer
    images_once: bool = False

    def train(self, items: Sequence[TrainItem]) -> ImageTextBatch:
        """Collates training pairs; row i of every field is item i, except of `images` if `images_once`."""
        image_ids = torch.tensor([item.image_row for item in items])
        text_ids = torch.tensor([item.text_row for item in items])
        shown, places = _distinct_images(items) if self.images_once else (items, None)
        pictures, views = [item.picture for item in shown], [item.image_view for item in shown]
        rows = torch.tensor([item.image_row for item in shown])
        batch = ImageTextBatch(
            images=collate_pictures(pictures) if self.view is None else self.view.collate(rows, pictures, views),
            image_places=places,
            image_ids=image_ids,
            texts=TokenizedTexts.none(),
            text_ids=text_ids,
            text_image_ids=image_ids,
            sampling_keys=torch.tensor([item.key for item in items]),
            faults=tuple(fault for item in items for fault in item.faults),
        )
        samples = [item.texts for item in items if item.texts is not None]
        if samples:
            self._add_texts(batch, samples)
        elif self._stored is not None:
            _add_stored(batch, self._stored, items[0].epoch)
        partners = [item.partner for item in items if item.partner is not None and item.partner.of_features]
        if partners:
            self._mix(batch, partners, [item.image_view for item in items])
        return batch

    def evaluation(self, items: Sequence[EvalItem]) -> ImageTextBatch:
        """Collates N images with all their texts, image by image.

        Raises:
            ValueError: If items are streamed.
        """
        if self.view is None:
            raise ValueError("evaluation needs a split that is read whole")
        image_ids = torch.tensor([item.image_row for item in items])
        num_captions = torch.tensor([len(item.captions) for item in items])
        rows = [row for item in items if item.captions for row in self.view.text_rows(item.image_row)]
        text_ids = torch.tensor(rows, dtype=torch.long)
        texts, cut = self._captions(text_ids, [caption for item in items for caption in item.captions])
        return ImageTextBatch(
            images=self.view.collate_evaluation(image_ids, [item.picture for item in items]),
            image_ids=image_ids,
            texts=texts,
            text_ids=text_ids,
            text_image_ids=image_ids.repeat_interleave(num_captions),
            num_truncated=cut,
            faults=tuple(item.fault for item in items if item.fault is not None),
        )

    @property
    def _stored(self) -> TextFeatures | None:
        return None if self.view is None else self.view.features.texts

    def _mix(self, batch: ImageTextBatch, partners: Sequence[Partner], views: Sequence[int]) -> None:
        """Mixes the features of each pair with those of its partner, whose image is shown in the same view."""
        stored = self._stored
        if self.view is None or self.view.features.images is None or stored is None:
            raise UserError("features of images and captions are mixed: freeze both towers, or train on extracted ones")
        shares = torch.tensor([[partner.share] for partner in partners])
        images = self.view.collate(torch.tensor([partner.image_row for partner in partners]), [], views)
        texts = stored.captions(torch.tensor([partner.text_row for partner in partners]))
        batch.images = _interpolated(batch.images, images, shares)
        batch.texts = _interpolated(batch.texts, texts, shares)

    def _add_texts(self, batch: ImageTextBatch, samples: Sequence[AsymmetrySample]) -> None:
        batch.texts, cut = self._captions(batch.text_ids, [s.text for s in samples])
        originals = batch.texts
        if samples[0].negative is not None and not isinstance(originals, TokenizedTexts):
            originals = self.tokenizer([s.text for s in samples])[0]
        batch.positives, positives_cut = self._made([s.positive for s in samples])
        batch.negatives, negatives_cut = self._made([s.negative for s in samples], originals)
        positives = None if batch.positives is None else batch.positives.texts
        batch.positive_negatives, both_cut = self._made([s.positive_negative for s in samples], positives)
        batch.num_truncated = cut + positives_cut + negatives_cut + both_cut

    def _captions(self, rows: Tensor, texts: list[str]) -> tuple[TokenizedTexts | Features, int]:
        return self.tokenizer(texts) if self._stored is None else (self._stored.captions(rows), 0)

    def _made(
        self, made: Sequence[MadeText | None], originals: TokenizedTexts | Features | None = None
    ) -> tuple[MadeTexts | None, int]:
        """The texts of one role, and how many were cut.

        With `originals`, a text is valid only if its tokens differ from its original's: different words can give the
        same tokens, beyond the tokenizer's limit or as unknown words.
        """
        given = [of_item for of_item in made if of_item is not None]
        if not given:
            return None, 0
        texts, cut = self.tokenizer([of_item.text for of_item in given])
        valid = [of_item.valid for of_item in given]
        if isinstance(originals, TokenizedTexts):
            pairs = zip(valid, texts.keys(), originals.keys(), strict=True)
            valid = [made and tokens != of_original for made, tokens, of_original in pairs]
        return MadeTexts(texts, torch.tensor(valid)), cut


def _distinct_images(items: Sequence[TrainItem]) -> tuple[list[TrainItem], Tensor]:
    """The first item of each image, and the place of each item's image among them."""
    first: dict[int, TrainItem] = {}
    for item in items:
        first.setdefault(item.image_row, item)
    numbers = {row: number for number, row in enumerate(first)}
    return list(first.values()), torch.tensor([numbers[item.image_row] for item in items])


def _interpolated(first: Any, second: Any, shares: Float[Tensor, "B 1"]) -> Features:
    """Interpolated global vectors; there are no tokens (`PairMixing.check_features`)."""
    pooled = shares * first.pooled + (1 - shares) * second.pooled
    return Features(pooled.to(first.pooled.dtype), first.tokens, first.mask)


def _add_stored(batch: ImageTextBatch, stored: TextFeatures, epoch: int) -> None:
    """Adds stored features of captions and of the texts made from them."""
    batch.texts = stored.captions(batch.text_ids)
    batch.positives = stored.made("positives", batch.text_ids, epoch)
    batch.negatives = stored.made("negatives", batch.text_ids, epoch)
    batch.positive_negatives = stored.made("positive_negatives", batch.text_ids, epoch)
