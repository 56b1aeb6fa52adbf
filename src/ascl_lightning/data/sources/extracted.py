"""The output of `ascl extract`: captions, and features in place of pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ascl_lightning.data.arrays import load_array
from ascl_lightning.data.image_views import PLAIN, VIEWS, ImageView, ViewKind, views_of
from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.sources.files import data_folder
from ascl_lightning.data.sources.tabular import JsonLines
from ascl_lightning.data.stored_features import FeatureTable, SplitFeatures, TextFeatures, TextRows
from ascl_lightning.errors import UserError

_CAPTIONS = "captions.jsonl"
PICTURES = "pictures.npy"
"""Hashes of the encoded pictures."""
VIEW_FOLDERS = "views"
"""Folder of the views other than the plain one."""
NUMBERS = "caption_ids.npy"
"""The data set's own numbers of captions, if it has any."""


class ExtractedFeatures(Source):
    """The output folder of `ascl extract`, as `--data.root`.

    Training pictures that extraction could not read have no captions and are not visited. Of several stored views of a
    picture, training draws one for each epoch; in evaluation, global vectors are the mean over the views, and tokens
    are those of the plain view.

    Args:
        views: Kinds of views to use besides the plain one, or an empty list for that alone; None: all that are stored.
        crop_tokens: Make the global vector of each crop a local token of its image, in training and evaluation. Crops
            are then neither drawn nor averaged as views.
    """

    def __init__(self, views: list[ViewKind] | None = None, crop_tokens: bool = False) -> None:
        self.views = views
        self.crop_tokens = crop_tokens

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        root = data_folder(root, "what `ascl extract --out` wrote")
        folder = root / split
        if "/" in split or not (folder / _CAPTIONS).is_file():
            found = [path.parent for path in sorted(root.glob(f"*/{_CAPTIONS}"))]
            raise missing_split(split, {path.name: len(_captions(path)) for path in found}, str(root))
        captions = _captions(folder)
        features = SplitFeatures(_images(folder), _texts(folder), self._views(folder), self._crops(folder))
        if features.images is None:
            raise UserError(f"{folder}: holds no features of images; run `ascl extract` with an image encoder")
        for table in features.image_tables:
            if len(table) != len(captions):
                raise UserError(f"{table.folder}: {len(captions)} images and {len(table)} rows; extract again")
        digests = _saved(folder / PICTURES, len(captions), np.uint64)
        numbers = _saved(folder / NUMBERS, int(captions.num_captions.sum()), np.int64)
        empty = features.images.is_empty
        if empty.any():
            kept = [() if bad else texts for bad, texts in zip(empty, captions.captions, strict=True)]
            if features.texts is not None:
                rows = features.texts.rows.select(np.repeat(~empty, captions.num_captions))
                features = replace(features, texts=replace(features.texts, rows=rows))
            numbers = None if numbers is None else numbers[np.repeat(~empty, captions.num_captions)]
            captions = replace(captions, captions=kept)
        return replace(captions, images=None, features=features, picture_digests=digests, caption_ids=numbers)

    def _views(self, folder: Path) -> tuple[FeatureTable, ...]:
        wanted = views_of(list(VIEWS) if self.views is None else self.views)
        stored = _stored(folder, wanted)
        if self.views is not None and stored != wanted:
            raise UserError(
                f"{folder}: not all views of {', '.join(self.views)} are stored; run `ascl extract` with these --views"
            )
        shown = [view for view in stored if not (self.crop_tokens and view in VIEWS["crops"])]
        return tuple(FeatureTable(folder / view_folder(view)) for view in shown)

    def _crops(self, folder: Path) -> tuple[FeatureTable, ...]:
        crops = VIEWS["crops"] if self.crop_tokens else ()
        if _stored(folder, crops) != [*crops]:
            raise UserError(
                f"{folder}: crop_tokens needs crops, which are not stored; run `ascl extract` with --views '[crops]'"
            )
        return tuple(FeatureTable(folder / view_folder(view)) for view in crops)


def view_folder(view: ImageView) -> str:
    """The folder of a view's features in that of the split."""
    return "images" if view == PLAIN else f"{VIEW_FOLDERS}/{view.name}"


def _stored(folder: Path, views: Sequence[ImageView]) -> list[ImageView]:
    return [view for view in views if (folder / view_folder(view)).is_dir()]


def _captions(folder: Path) -> Split:
    return JsonLines({folder.name: _CAPTIONS}).read(folder, folder.name)


def _images(folder: Path) -> FeatureTable | None:
    return FeatureTable(folder / "images") if (folder / "images").is_dir() else None


def _saved(file: Path, size: int, dtype: type) -> np.ndarray | None:
    """A saved array; None if the data had none, or an older version extracted it."""
    if not file.exists():
        return None
    values = np.asarray(load_array(file))
    if (values.shape, values.dtype) != ((size,), np.dtype(dtype)):
        raise UserError(f"{file}: does not hold {size} values, one for each image or caption; extract again")
    return values


def _texts(folder: Path) -> TextFeatures | None:
    if not (folder / "texts").is_dir():
        return None
    return TextFeatures(FeatureTable(folder / "texts"), TextRows.load(folder / "texts" / "rows"))
