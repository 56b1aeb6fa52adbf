"""Excludes listed training pairs, for example those that `ascl triage` flags."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from lightning_utilities.core.rank_zero import rank_zero_info
from pyarrow import parquet

from ascl_lightning.data.sources.base import Split
from ascl_lightning.data.sources.columns import CaptionColumn
from ascl_lightning.data.sources.files import json_lines
from ascl_lightning.data.sources.records import Record
from ascl_lightning.data.stored_features import SplitFeatures
from ascl_lightning.errors import UserError

_COLUMNS = ("image_id", "caption", "flags")


@dataclass(frozen=True, eq=False)
class Exclusion:
    """Pairs of an image and a caption to exclude.

    Args:
        file: The list.
        pairs: How often each `(image_id, caption)` is listed. If an image has a caption several times, each listing
            excludes one copy, the last first.
        digest: SHA-256 of the file, in hex.
    """

    file: Path
    pairs: Mapping[tuple[str, str], int]
    digest: str

    @classmethod
    def read(cls, file: Path) -> "Exclusion":
        """Reads a list: Parquet or JSON lines, with `image_id` and `caption` as in the data.

        Rows whose field `flags` is an empty list, as `ascl triage` writes for good pairs, are ignored.

        Raises:
            UserError: If the file cannot be read or a row lacks a field.
        """
        rows = _parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file)
        pairs = Counter((row.text("image_id"), row.text("caption")) for row in rows)
        return cls(file, pairs, hashlib.sha256(file.read_bytes()).hexdigest())

    def apply(self, split: Split) -> Split:
        """A split without these pairs; images without remaining captions stay but are not visited.

        Stored T+ and T- are dropped too, as they may contain words of these pairs; training makes new ones.

        Raises:
            UserError: If pairs are listed but the split has none of them.
        """
        left = Counter(self.pairs)
        kept = np.concatenate([_kept(*image, left) for image in zip(split.image_ids, split.captions, strict=True)])
        if self.pairs and kept.all():
            raise UserError(
                f"{self.file}: the training split has none of its {sum(self.pairs.values())} pairs; give the list made "
                f"for this data (features that were extracted with a list need none)"
            )
        if kept.all():
            return split
        texts = [text for text, stays in zip(chain.from_iterable(split.captions), kept, strict=True) if stays]
        owners = np.repeat(np.arange(len(split)), split.num_captions)[kept]
        column = pa.chunked_array([pa.array(texts, pa.large_string())])
        captions = CaptionColumn(column, np.bincount(owners, minlength=len(split)))
        return replace(split, captions=captions, features=_select(split.features, kept))


def leave_out(file: Path, split: Split) -> tuple[Split, dict[str, Any]]:
    """A split without the pairs that a file lists, and a record for checkpoints: file, SHA-256, number of pairs.

    Raises:
        UserError: As `Exclusion.read` and `apply`.
    """
    exclusion = Exclusion.read(file)
    kept = exclusion.apply(split)
    num_pairs = int(split.num_captions.sum() - kept.num_captions.sum())
    rank_zero_info(f"{file}: {num_pairs:,} training pairs are excluded")
    return kept, {"file": str(file), "sha256": exclusion.digest, "pairs": num_pairs}


def _kept(image_id: str, captions: tuple[str, ...], left: Counter[tuple[str, str]]) -> Bool[np.ndarray, " c"]:
    """Which captions of an image stay; those that do not are subtracted from `left`."""
    kept = np.ones(len(captions), np.bool_)
    for place in reversed(range(len(captions))):
        pair = image_id, captions[place]
        if left[pair] > 0:
            left[pair] -= 1
            kept[place] = False
    return kept


def _select(features: SplitFeatures, captions: Bool[np.ndarray, " M"]) -> SplitFeatures:
    texts = features.texts
    if texts is None:
        return features
    return replace(features, texts=replace(texts, rows=texts.rows.select(captions)).captions_alone())


def _json_rows(file: Path) -> Iterator[Record]:
    for number, value in json_lines(file):
        if not isinstance(value, dict) or value.get("flags") != []:
            yield Record(value, f"{file}, line {number}")


def _parquet_rows(file: Path) -> Iterator[Record]:
    try:
        with parquet.ParquetFile(file) as opened:
            present = set(opened.schema_arrow.names)
            table = opened.read(columns=[name for name in _COLUMNS if name in present])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: not a readable Parquet file: {error}") from error
    for number, row in enumerate(table.to_pylist()):
        if row.get("flags") != []:
            yield Record(row, f"{file}, row {number}")
