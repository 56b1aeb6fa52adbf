"""Tables with images of training pairs, search results and attention, independent of a logger."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.datasets import TrainItem
from ascl_lightning.data.images import to_square
from ascl_lightning.data.text import clean_caption
from ascl_lightning.data.views import SplitView
from ascl_lightning.evaluation.examples import SearchResult, find, spread
from ascl_lightning.evaluation.page.pictures import has_pictures, original
from ascl_lightning.evaluation.word_attention import WordAttention, word_attention
from ascl_lightning.metrics.comparisons import Comparison, label
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.similarity.grounding import grid_side, ground

NUM_QUERIES = 8
NUM_PAIRS = 16
NUM_ATTENDED = 4
SIDE = 128
"""Pixels of the longer side of an image."""
_DARKEST = 0.25


@dataclass(frozen=True)
class Panel:
    """A table.

    Args:
        name: Name of the logged table.
        columns: Names of the columns.
        rows: Texts, numbers, booleans and images; None if a split has no images.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[list[Any]]


def found_panels(gallery: Gallery, view: SplitView) -> Iterator[Panel]:
    """Search results of a few texts and images, the same at each validation."""
    every_image, every_text = _all(gallery.images.ids), _all(gallery.texts.ids)
    texts = spread(every_text, NUM_QUERIES)
    scores, own = gallery.score(every_image, texts).T, gallery.image_of_text[texts, None] == every_image
    columns = ("query", "place", "picture", "image", "score", "right")
    rows = [
        [_caption(gallery, view, text), place, _picture(view, row), view.split.image_ids[row], score, right]
        for text, findings in zip(texts.tolist(), map(find, scores, own), strict=True)
        for place, row, score, right in _places(findings, gallery.images.ids)
    ]
    yield Panel("found/text_to_image", columns, rows)
    # only images with captions
    images = spread(gallery.image_of_text.unique(), NUM_QUERIES)
    scores, own = gallery.score(images, every_text), images[:, None] == gallery.image_of_text
    columns = ("query", "image", "place", "caption", "score", "right")
    rows = [
        [_picture(view, query), view.split.image_ids[query], place, _caption(gallery, view, text), score, right]
        for query, findings in zip(gallery.images.ids[images].tolist(), map(find, scores, own), strict=True)
        for place, text, score, right in _places(findings, every_text)
    ]
    yield Panel("found/image_to_text", columns, rows)


def attention_panel(model: ImageTextModel, gallery: Gallery, view: SplitView, data: RetrievalDataModule) -> Panel:
    """Attention between the words and the image of a few captions; empty without a token grid."""
    columns = ("caption", "word", "support", "attention of the word", "attention to the word")
    panel = Panel("attention", columns, [])
    texts = spread(_all(gallery.texts.ids), NUM_ATTENDED)
    owners = gallery.image_of_text[texts]
    images, features = gallery.images.select(owners), gallery.texts.select(texts)
    side = grid_side(view.spec, images.mask.shape[1])
    if side is None or not model.similarity.uses_words or not has_pictures(view):
        return panel
    captions = [clean_caption(_caption(gallery, view, text)) for text in texts.tolist()]
    positions = data.tokenizer().word_positions(captions).to(texts.device)
    attended = word_attention(
        ground(model.similarity, images, features), images.mask, features.mask, positions, captions
    )
    for caption, row, attention in zip(captions, gallery.images.ids[owners].tolist(), attended, strict=True):
        panel.rows.extend(_attention_rows(caption, _square(view, row), attention, side))
    return panel


def comparisons_panel(compared: Sequence[Comparison]) -> Panel:
    """How often images prefer one kind of text to another."""
    rows = [[of.type, label(of.first), label(of.second), of.share, of.count] for of in compared]
    return Panel("asymmetry/comparisons", ("type", "text", "preferred to", "share", "captions"), rows)


def first_batch_panel(data: RetrievalDataModule) -> Panel:
    """The first training pairs with their T+, T- and (T+)-."""
    loader: Any = data.train_dataloader()
    items = [loader.dataset[key] for key in islice(next(iter(loader.batch_sampler)), NUM_PAIRS)]
    types = {of.name: of.type for of in (*data.asymmetry.positives, *data.asymmetry.negatives)}
    columns = ("picture", "T", "T+", "T+ by", "T-", "T- by", "(T+)-", "(T+)- by")
    rows = [[_fed(data, item), *_texts(data.texts_of(item), types)] for item in items]
    return Panel("first_batch", columns, rows)


def _texts(sample: AsymmetrySample, types: dict[str, Any]) -> list[str | None]:
    cells: list[str | None] = [sample.text]
    for made in (sample.positive, sample.negative, sample.positive_negative):
        operation = None if made is None else made.operation
        cells += [None if made is None else made.text, operation and f"{operation} ({types[operation]})"]
    return cells


def _attention_rows(
    caption: str, square: Image.Image, attention: WordAttention, side: int
) -> Iterator[list[str | float | Image.Image]]:
    looks = np.array(attention.word_to_region)
    looked_at = np.array(attention.region_to_word).T
    for number, word in enumerate(attention.words):
        overlays = (overlay(square, weights[number].reshape(side, side)) for weights in (looks, looked_at))
        yield [caption, word, attention.word_support[number], *overlays]


def overlay(picture: Image.Image, weights: np.ndarray) -> Image.Image:
    """Darkens an image where weights are small.

    Args:
        picture: RGB image.
        weights: Non-negative weights of a grid over the image, (g, g). The image is unchanged at the maximum.
    """
    scaled = weights / max(weights.max(), 1e-12)
    mask = Image.fromarray((255 * scaled).astype(np.uint8)).resize(picture.size, Image.Resampling.BILINEAR)
    dark = picture.point(lambda value: int(_DARKEST * value))
    return Image.composite(picture, dark, mask)


def _places(findings: SearchResult, ids: Int[Tensor, " C"]) -> Iterator[tuple[int, int, float, bool]]:
    """Place from 1, candidate, score, and whether it is correct."""
    for place, found in enumerate(findings.results, 1):
        yield place, int(ids[found.number]), found.score, found.correct


def _caption(gallery: Gallery, view: SplitView, text: int) -> str:
    image = int(gallery.images.ids[gallery.image_of_text[text]])
    return view.split.captions[image][int(gallery.texts.ids[text]) - view.text_rows(image).start]


def _picture(view: SplitView, row: int) -> Image.Image | None:
    picture = original(view, row)
    if picture is not None:
        picture.thumbnail((SIDE, SIDE))
    return picture


def _square(view: SplitView, row: int) -> Image.Image:
    """The image as fed to the image encoder."""
    picture = original(view, row)
    assert picture is not None
    assert isinstance(view.spec, PixelSpec)
    return _small(to_square(picture, view.spec))


def _fed(data: RetrievalDataModule, item: TrainItem) -> Image.Image | None:
    """The image as fed in training, or the original if training uses features."""
    if isinstance(item.picture, np.ndarray):
        return _small(item.picture)
    return None if data.streams else _picture(data.view("train"), item.image_row)


def _small(pixels: np.ndarray) -> Image.Image:
    """An image from pixels (3, S, S)."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).resize((SIDE, SIDE))


def _all(ids: Tensor) -> Int[Tensor, " n"]:
    return torch.arange(len(ids), device=ids.device)
