"""Several sources as one."""

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

    A weight says how often an epoch of training visits a source: 1 visits each pair once, 2 twice, 0.5 a random half,
    another one each epoch. A source that lacks a split adds nothing to it. An image's id is `SOURCE/ID`. All are read
    whole, also those that could be streamed; features are extracted of a mixture, not mixed.

    Args:
        sources: The sources by a name of your own.
        weights: Weight of each source; 1 where none is given.
        folders: Folder of each source under the root; the root itself where none is given.

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
                raise UserError(f"mixture: '{name}' is none of its sources: {', '.join(sources)}")
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
    """Sequences one after another, looked up when asked for."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        self._bounds = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._bounds[-1]

    def __getitem__(self, row: Any) -> Any:
        """The value at a place of the whole."""
        part, place = self._find(row)
        return part[place]

    def ends(self, row: int) -> bytes | np.ndarray:
        """See `ends_of_picture`."""
        return ends_of_picture(*self._find(row))

    def _find(self, row: Any) -> tuple[Any, int]:
        row = range(len(self))[row]
        number = bisect_right(self._bounds, row)
        return self._parts[number], row - (self._bounds[number - 1] if number else 0)
