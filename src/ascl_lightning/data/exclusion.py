"""Training pairs that are left out, by a list such as `ascl triage` writes."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from lightning_utilities.core.rank_zero import rank_zero_info
from pyarrow import parquet

from ascl_lightning.data.sources.base import Split
from ascl_lightning.data.sources.files import Record, json_lines
from ascl_lightning.data.stored_features import SplitFeatures
from ascl_lightning.errors import UserError

_COLUMNS = ("image_id", "caption", "flags")


@dataclass(frozen=True, eq=False)
class Exclusion:
    """Pairs of an image and a caption that are left out.

    Args:
        file: Where they were listed.
        pairs: How often each `(image_id, caption)` is listed. Of a caption that its image has several times, a listing
            takes one, the last first.
        digest: SHA-256 of the file, in hex.
    """

    file: Path
    pairs: Mapping[tuple[str, str], int]
    digest: str

    @classmethod
    def read(cls, file: Path) -> "Exclusion":
        """Read a list: Parquet, or JSON lines, with `image_id` and `caption` as the data has it.

        Where rows have `flags`, as those of `ascl triage`, the ones without any are kept in training.

        Raises:
            UserError: If the file cannot be read or a row lacks a field.
        """
        rows = _parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file)
        pairs = Counter((row.text("image_id"), row.text("caption")) for row in rows)
        return cls(file, pairs, hashlib.sha256(file.read_bytes()).hexdigest())

    def apply(self, split: Split) -> Split:
        """A split without these pairs; an image that is left without captions stays, and is not visited.

        Stored T+ and T- are left out too, as they may hold words of these pairs: training makes them anew.

        Raises:
            UserError: If pairs are listed and the split has none of them.
        """
        changed: dict[int, tuple[str, ...]] = {}
        is_kept: list[Bool[np.ndarray, " c"]] = []
        left = Counter(self.pairs)
        for row, (image_id, captions) in enumerate(zip(split.image_ids, split.captions, strict=True)):
            kept = _kept(image_id, captions, left)
            is_kept.append(kept)
            if not kept.all():
                changed[row] = tuple(caption for caption, stays in zip(captions, kept, strict=True) if stays)
        if self.pairs and not changed:
            raise UserError(
                f"{self.file}: of its {sum(self.pairs.values())} pairs the training split has none: give the list made "
                f"for this data; features that were extracted with a list need none"
            )
        if not changed:
            return split
        features = _select(split.features, np.concatenate(is_kept))
        return replace(split, captions=_Changed(split.captions, changed), features=features)


def leave_out(file: Path, split: Split) -> tuple[Split, dict[str, Any]]:
    """A split without the pairs that a file lists, and what a checkpoint says of that: file, digest, number of pairs.

    Raises:
        UserError: As `Exclusion.read` and `apply`.
    """
    exclusion = Exclusion.read(file)
    kept = exclusion.apply(split)
    num_pairs = int(split.num_captions.sum() - kept.num_captions.sum())
    rank_zero_info(f"{file}: {num_pairs:,} training pairs are left out")
    return kept, {"file": str(file), "sha256": exclusion.digest, "pairs": num_pairs}


class _Changed(Sequence[tuple[str, ...]]):
    """Captions of which a few images' are others; the rest stay as they are kept.

    Args:
        captions: Of all images.
        changed: Of some, by row.
    """

    def __init__(self, captions: Sequence[tuple[str, ...]], changed: Mapping[int, tuple[str, ...]]) -> None:
        self._captions = captions
        self._changed = changed
        counts: np.ndarray | None = getattr(captions, "counts", None)
        self.counts = np.fromiter(map(len, captions), np.int64) if counts is None else counts.copy()
        self.counts[list(changed)] = [len(texts) for texts in changed.values()]

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, row: Any) -> Any:
        """The captions of one image, or of a slice of them."""
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return self._changed[row] if row in self._changed else self._captions[row]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for row, captions in enumerate(self._captions):
            yield self._changed.get(row, captions)


def _kept(image_id: str, captions: tuple[str, ...], left: Counter[tuple[str, str]]) -> Bool[np.ndarray, " c"]:
    """Which captions of an image stay; what is taken out is taken off what is left to take."""
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
