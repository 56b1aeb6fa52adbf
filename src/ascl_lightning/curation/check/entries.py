"""Iteration over the images of a split, which is read whole or shard by shard."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ascl_lightning.curation.check.findings import Tally
from ascl_lightning.curation.check.picture_facts import PictureFacts, facts_of_view, picture_facts
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.images import ImageBytes
from ascl_lightning.data.sources.base import Shard
from ascl_lightning.data.stored_features import FeatureTable
from ascl_lightning.data.views import SplitView
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.threads import side_by_side

Entry = tuple[str, tuple[str, ...], PictureFacts]
"""Name of an image, its captions, and the facts about its pixels."""


class ViewEntries:
    """Entries of a split that is in memory.

    Args:
        view: The split.
    """

    def __init__(self, view: SplitView) -> None:
        self.places: Sequence[str] = view.split.image_ids
        """Image ids."""
        self.captions: Sequence[tuple[str, ...]] | None = view.split.captions
        """Captions of each image."""
        self.broken = Tally()
        """Feature files that do not match their checksums."""
        stored = view.features.texts
        self.stored_texts: FeatureTable | None = None if stored is None else stored.table
        """Stored features of the text tower, if any."""
        texts = [] if self.stored_texts is None else [self.stored_texts]
        tables = [*view.features.image_tables, *texts]
        self.num_shards = sum(table.manifest.num_shards for table in tables)
        for table in tables:
            for path in table.damaged():
                self.broken.add(f"{path}: does not match its checksum")
        self._view = view

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Entry]:
        yield from zip(self.places, self._view.split.captions, facts_of_view(self._view), strict=True)


class ShardEntries:
    """Entries of a streamed split. A broken shard is recorded and reading continues with the next one.

    Args:
        shards: Shards of the split.
        spec: Input of the image encoder.
    """

    def __init__(self, shards: Sequence[Shard], spec: PixelSpec) -> None:
        self.places = _ShardPlaces()
        """Shard and number of each image read so far."""
        self.captions: Sequence[tuple[str, ...]] | None = None
        """Not stored."""
        self.broken = Tally()
        """Truncated or damaged shards."""
        self.num_shards = len(shards)
        self.stored_texts: FeatureTable | None = None
        """None, because streamed texts have no stored features."""
        self._shards = shards
        self._spec = spec

    def __iter__(self) -> Iterator[Entry]:
        return side_by_side(self._entry, self._items())

    def _entry(self, item: tuple[str, tuple[str, ...], Path | ImageBytes]) -> Entry:
        place, captions, image = item
        return place, captions, picture_facts(image, self._spec)

    def _items(self) -> Iterator[tuple[str, tuple[str, ...], Path | ImageBytes]]:
        for shard in self._shards:
            self.places.begin(shard.name)
            try:
                for captions, image in shard.items(0):
                    yield self.places.add(), captions, image
            except UserError as error:
                self.broken.add(str(error))


class _ShardPlaces(Sequence[str]):
    """Shard and number of each image, formatted on access."""

    def __init__(self) -> None:
        self._shards: list[str] = []
        self._starts: list[int] = []
        self._count = 0

    def begin(self, shard: str) -> None:
        """Starts a shard."""
        self._shards.append(shard)
        self._starts.append(self._count)

    def add(self) -> str:
        """Adds an image and returns its place."""
        self._count += 1
        return self[self._count - 1]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> Any:
        """The place of an image."""
        shard = bisect_right(self._starts, row) - 1
        return f"{self._shards[shard]}, image {row - self._starts[shard]}"
