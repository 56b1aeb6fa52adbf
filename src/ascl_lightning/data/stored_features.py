"""Tables of the outputs of frozen towers, or of their lower layers, on disk; read by row."""

import json
import shutil
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ascl_lightning.data.arrays import damaged_arrays, load_array, save_arrays
from ascl_lightning.data.batch import Features, ImageViews, MadeTexts, WithCrops
from ascl_lightning.data.feature_shards import DTYPES, FIELDS, FeatureShard, Precision, gather_rows, shard_arrays
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import remove_partials, write_file

SHARD_ROWS = 1024
"""Rows per shard; a killed extraction loses at most one shard per process."""

_MANIFEST = "manifest.json"
_VERIFIED_BYTES = 1 << 30
"""Tokens of larger tables are not verified at opening, which takes a second per gigabyte."""


@dataclass(frozen=True)
class Manifest:
    """Description of a table.

    Args:
        encoder: Fingerprint of the tower: its class, input specification and weights.
        items: Fingerprint of the encoded items, row by row.
        rows: Number of rows.
        dtype: Storage type of numbers.
        made_with: The operations that made the texts and the seed of their draws, if the table has T+ or T-.
        cut: The layer of the tower that the stored activations enter; empty for the tower's output.
        view: The view of the pictures; empty for the plain one, and for texts.
    """

    encoder: str
    items: str
    rows: int
    dtype: Precision = "float16"
    made_with: str = ""
    cut: str = ""
    view: str = ""

    @property
    def num_shards(self) -> int:
        """Number of shards of a complete table."""
        return -(-self.rows // SHARD_ROWS)

    def shard_rows(self, number: int) -> range:
        """Rows of a shard."""
        return range(number * SHARD_ROWS, min(self.rows, (number + 1) * SHARD_ROWS))

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of a folder, if it has one.

        Raises:
            UserError: If it is damaged or from another version.
        """
        try:
            return cls(**json.loads((folder / _MANIFEST).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{folder / _MANIFEST}: not a manifest of features; extract them again") from error

    def write(self, folder: Path) -> None:
        """Writes the manifest to a folder, after removing shards of another manifest.

        Raises:
            UserError: If the folder has other files, or cannot be written.
        """
        remove_partials(folder)
        if Manifest.read(folder) == self:
            return
        if holds_other_files(folder):
            raise UserError(f"{folder}: holds other files than extracted features; extract into another folder")
        shutil.rmtree(folder, ignore_errors=True)
        write_file(folder / _MANIFEST, json.dumps(vars(self), indent=1))


class FeatureTable:
    """Rows of unprojected `Features`, memory-mapped.

    Args:
        folder: Folder of a complete table.

    Raises:
        UserError: If there is no table, or it is incomplete or damaged.
    """

    def __init__(self, folder: Path) -> None:
        manifest = Manifest.read(folder)
        if manifest is None:
            raise UserError(f"{folder}: there are no extracted features; run `ascl extract`")
        missing = missing_shards(folder, manifest)
        if missing:
            raise UserError(
                f"{folder}: {len(missing)} of {manifest.num_shards} shards are missing; "
                f"run the same `ascl extract` again"
            )
        self.folder = folder
        self.manifest = manifest
        self._with_tokens = True
        self._shards = [
            FeatureShard.open(folder / _name(number), len(manifest.shard_rows(number)))
            for number in range(manifest.num_shards)
        ]
        tokens_too = sum(shard.tokens.nbytes for shard in self._shards) <= _VERIFIED_BYTES
        damaged = self.damaged(FIELDS if tokens_too else ("pooled", "lengths"))
        if damaged:
            raise UserError(
                f"{damaged[0]}: is not what `ascl extract` wrote, as its checksum says; "
                f"remove the folder {damaged[0].parent} and run the same `ascl extract` again"
            )

    def __len__(self) -> int:
        return self.manifest.rows

    def damaged(self, arrays: Sequence[str] = FIELDS) -> list[Path]:
        """The files whose checksums do not match; reads these arrays whole.

        Args:
            arrays: Names of the arrays to check.
        """
        numbers = range(self.manifest.num_shards)
        return [path for number in numbers for path in damaged_arrays(self.folder / _name(number), arrays)]

    def pooled_alone(self) -> "FeatureTable":
        """The same table without tokens; those of activations are kept, as they make global vectors too."""
        if self.manifest.cut:
            return self
        table = copy(self)
        table._with_tokens = False
        return table

    def gather(self, rows: Int[Tensor, " B"]) -> Features:
        """The features of some rows, padded on the right; K is 0 without tokens."""
        numbers, places = np.divmod(rows.numpy(), SHARD_ROWS)
        return gather_rows(self._shards, numbers, places, self.manifest.dtype, with_tokens=self._with_tokens)

    def as_stored(self, features: Features) -> Features:
        """Rounds features as storing them does."""
        fields = (features.pooled, features.tokens)
        pooled, tokens = (field.to(DTYPES[self.manifest.dtype]).float() for field in fields)
        return Features(pooled, tokens, features.mask)

    @cached_property
    def is_empty(self) -> Bool[np.ndarray, " N"]:
        """Rows of unreadable pictures."""
        return np.concatenate([shard.lengths for shard in self._shards]) == 0


def holds_other_files(folder: Path) -> bool:
    """Whether a folder has files but no table; hidden files are ignored."""
    if Manifest.read(folder) is not None or not folder.exists():
        return False
    return not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())


def missing_shards(folder: Path, manifest: Manifest) -> list[int]:
    """Numbers of the shards that do not exist yet."""
    return [number for number in range(manifest.num_shards) if not (folder / _name(number)).is_dir()]


def write_shard(folder: Path, number: int, parts: Sequence[Features], dtype: Precision) -> None:
    """Writes a shard atomically; the same rows give the same bytes.

    Raises:
        UserError: If numbers are too large for the data type, as activations inside a tower can be for float16.
    """
    arrays = shard_arrays(parts, dtype, remedy="run `ascl extract` with --dtype bfloat16")
    save_arrays(folder / _name(number), arrays)


def _name(number: int) -> str:
    return f"{number:05d}"


@dataclass(frozen=True)
class TextRows:
    """Rows, in a table of distinct texts, of the captions and of V variants of the texts made from each.

    Args:
        captions: Row of each caption, (M,).
        positives: T+, (M, V); V is 0 if there are none.
        negatives: T-, (M, V); -1 if invalid.
        positive_negatives: (T+)-, likewise.
    """

    captions: Int[np.ndarray, " M"]
    positives: Int[np.ndarray, "M V1"]
    negatives: Int[np.ndarray, "M V2"]
    positive_negatives: Int[np.ndarray, "M V3"]

    def select(self, captions: Bool[np.ndarray, " M"]) -> "TextRows":
        """The rows of some captions, in their order."""
        return TextRows(*(rows[captions] for rows in vars(self).values()))

    def save(self, folder: Path) -> None:
        """Writes one file per array."""
        save_arrays(folder, vars(self))

    @classmethod
    def load(cls, folder: Path) -> "TextRows":
        """Memory-maps the arrays of a folder.

        Raises:
            UserError: If they are missing or damaged.
        """
        arrays: dict[str, Any] = {name: load_array(folder / f"{name}.npy") for name in cls.__dataclass_fields__}
        damaged = damaged_arrays(folder, arrays)
        if damaged:
            raise UserError(f"{damaged[0]}: is not what `ascl extract` wrote, as its checksum says; extract again")
        return cls(**arrays)


@dataclass(frozen=True)
class TextFeatures:
    """Features of the captions of a split, and of texts made from them."""

    table: FeatureTable
    rows: TextRows

    def captions(self, text_rows: Int[Tensor, " B"]) -> Features:
        """Features of some captions."""
        return self.table.gather(torch.from_numpy(np.asarray(self.rows.captions[text_rows.numpy()])))

    def captions_alone(self) -> "TextFeatures":
        """The same features without texts made from captions."""
        none = np.zeros((len(self.rows.captions), 0), np.int64)
        return TextFeatures(self.table, TextRows(self.rows.captions, none, none, none))

    def pooled_alone(self) -> "TextFeatures":
        """The same texts without tokens."""
        return TextFeatures(self.table.pooled_alone(), self.rows)

    @property
    def num_variants(self) -> int:
        """Number of made texts per caption and role."""
        return max(self.rows.positives.shape[1], self.rows.negatives.shape[1])

    @property
    def operations(self) -> str:
        """Identifies the operations that made texts; empty without such texts."""
        return self.table.manifest.made_with.rpartition(" ")[0]

    @property
    def seed(self) -> int | None:
        """Seed of the draws of made texts; None without such texts."""
        seed = self.table.manifest.made_with.rpartition(" ")[2]
        return int(seed) if seed and self.num_variants else None

    def made(
        self, kind: Literal["positives", "negatives", "positive_negatives"], text_rows: Int[Tensor, " B"], epoch: int
    ) -> MadeTexts | None:
        """One made text per caption, another variant each epoch; None without any."""
        rows = getattr(self.rows, kind)
        if rows.shape[1] == 0:
            return None
        chosen = rows[text_rows.numpy(), epoch % rows.shape[1]].astype(np.int64)
        return MadeTexts(self.table.gather(torch.from_numpy(np.maximum(chosen, 0))), torch.from_numpy(chosen >= 0))


@dataclass(frozen=True)
class SplitFeatures:
    """Stored features of a split; None for a tower that has to be run.

    Args:
        images: Features of the images as evaluation shows them.
        texts: Features of the captions and of texts made from them.
        views: Features of the images in other views.
        crops: Features of crops of the images, whose global vectors are local tokens of the image.
    """

    images: FeatureTable | None = field(default=None)
    texts: TextFeatures | None = field(default=None)
    views: tuple[FeatureTable, ...] = ()
    crops: tuple[FeatureTable, ...] = ()

    @property
    def num_views(self) -> int:
        """Number of stored views of an image, the plain one included."""
        return len(self._view_tables)

    @property
    def image_tables(self) -> tuple[FeatureTable, ...]:
        """All tables of images, the plain view first."""
        return (*self._view_tables, *self.crops)

    def drawn(self, rows: Int[Tensor, " B"], views: Int[Tensor, " B"]) -> Features:
        """The features of some images, each in a view of its own, by number."""
        groups = [(int(view), (views == view).nonzero()[:, 0]) for view in views.unique()]
        if len(groups) == 1:
            return self._with_crops(self._view_tables[groups[0][0]].gather(rows), rows)
        joined = Features.join([self._view_tables[view].gather(rows[places]) for view, places in groups])
        order = torch.cat([places for _, places in groups]).argsort()
        return self._with_crops(Features(joined.pooled[order], joined.tokens[order], joined.mask[order]), rows)

    def every_view(self, rows: Int[Tensor, " B"]) -> Features | ImageViews:
        """The features of some images in all views."""
        plain, *others = (table.gather(rows) for table in self._view_tables)
        plain = self._with_crops(plain, rows)
        return ImageViews((plain, *others)) if others else plain

    def pooled_alone(self) -> "SplitFeatures":
        """The same features without tokens."""
        tables = [table.pooled_alone() for table in self._view_tables]
        texts = None if self.texts is None else self.texts.pooled_alone()
        return SplitFeatures(tables[0] if tables else None, texts, tuple(tables[1:]))

    @property
    def _view_tables(self) -> tuple[FeatureTable, ...]:
        return () if self.images is None else (self.images, *self.views)

    def _with_crops(self, features: Features, rows: Int[Tensor, " B"]) -> Features:
        if not self.crops:
            return features
        crops = tuple(table.pooled_alone().gather(rows) for table in self.crops)
        return WithCrops(features.pooled, features.tokens, features.mask, crops)
