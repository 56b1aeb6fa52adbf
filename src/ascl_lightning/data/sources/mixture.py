"""Several sources combined into one."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

from ascl_lightning.data.sources.base import MissingSplitError, Source, Split, ends_of_picture, missing_split
from ascl_lightning.errors import UserError


class Mixture(Source):
    """The images of several sources, each with a weight in training.

    An epoch visits each pair of a source with weight 1 once, with weight 2 twice; with weight 0.5 it visits a random
    half of them, drawn for each epoch. A source that lacks a split adds nothing to it. An image's id is `SOURCE/ID`.
    No source is streamed. Extract features from the mixture, not from its sources.

    Args:
        sources: The sources, by any name.
        weights: Weight of each source; 1 by default.
        folders: Folder of each source, relative to the root; the root itself by default.

    Raises:
        UserError: If a weight is not positive, or names no source.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        weights: dict[str, float] | None = None,
        folders: dict[str, str] | None = None,
    ) -> None:
        self.sources = sources
        self.weights = weights or {}
        self.folders = folders or {}
        for name in chain(self.weights, self.folders):
            if name not in sources:
                raise UserError(f"mixture: '{name}' is not one of its sources: {', '.join(sources)}")
        for name, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise UserError(f"mixture: the weight of '{name}' is {weight}; give a positive number")

    def read(self, root: Path | None, split: str) -> Split:
        """Read one split; see `Source.read`."""
        parts: dict[str, Split] = {}
        for name, source in self.sources.items():
            folder = root / self.folders[name] if root is not None and name in self.folders else root
            try:
                parts[name] = source.read(folder, split)
            except MissingSplitError:
                continue
        if not parts:
            raise missing_split(split, {}, f"mixture of {', '.join(self.sources)}")
        extracted = [name for name, part in parts.items() if part.features.images is not None]
        if extracted:
            raise UserError(f"mixture: '{extracted[0]}' holds extracted features; run `ascl extract` on the mixture")
        benchmarks = [name for name, part in parts.items() if part.choices is not None]
        if benchmarks:
            raise UserError(f"mixture: '{benchmarks[0]}' is a benchmark of hard negatives; test it by itself")
        pictures = [part.images for part in parts.values() if part.images is not None]
        if 0 < len(pictures) < len(parts):
            raise UserError("mixture: some sources have pictures and some have none; they cannot train one model")
        return Split(
            [f"{name}/{image_id}" for name, part in parts.items() for image_id in part.image_ids],
            Joined([part.captions for part in parts.values()]),
            Joined(pictures) if pictures else None,
            tuple((len(part), self.weights.get(name, 1.0)) for name, part in parts.items()),
        )


class Joined(Sequence[Any]):
    """Lazy concatenation of sequences."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        self._bounds = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._bounds[-1]

    def __getitem__(self, row: Any) -> Any:
        """One value of the concatenation."""
        part, place = self._find(row)
        return part[place]

    def ends(self, row: int) -> bytes | np.ndarray:
        """See `ends_of_picture`."""
        return ends_of_picture(*self._find(row))

    def _find(self, row: Any) -> tuple[Any, int]:
        row = range(len(self))[row]
        number = bisect_right(self._bounds, row)
        return self._parts[number], row - (self._bounds[number - 1] if number else 0)
