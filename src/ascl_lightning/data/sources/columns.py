"""Captions of millions of images in an Arrow column."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

_AT_ONCE = 4096


class CaptionColumn(Sequence[tuple[str, ...]]):
    """Captions of each image, kept as one Arrow column.

    Args:
        texts: All captions, image by image.
        counts: Number of captions of each image.
    """

    def __init__(self, texts: "pa.ChunkedArray[Any]", counts: Int[np.ndarray, " N"]) -> None:
        self.counts = counts
        self._texts = texts
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, row: Any) -> Any:
        """The captions of one image, or of a slice of them."""
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"image {row} of {len(self)}")
        end, count = int(self._ends[row]), int(self.counts[row])
        return tuple(self._texts.slice(end - count, count).to_pylist())

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        starts = range(0, len(self._texts), _AT_ONCE)
        texts = (text for start in starts for text in self._texts.slice(start, _AT_ONCE).to_pylist())
        for count in self.counts.tolist():
            yield tuple(islice(texts, count))
