"""An unchanging view of the items in a folder of shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.data.feature_shards import gather_rows
from ascl_lightning.gallery.shards import Encoding, Shard
from ascl_lightning.search.encoded import Encoded


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The items of a store at one moment. A slot is a row of any shard, counted over all shards.

    Args:
        shards: The shards by number, in ascending order.
        encoding: What the items have in common; None before the first item.
        places: Id, number of the shard and row of each item, in ascending order of ids.
    """

    shards: Mapping[int, Shard]
    encoding: Encoding | None
    places: Int[np.ndarray, "n 3"] = field(repr=False)

    @property
    def ids(self) -> Int[np.ndarray, " n"]:
        """Ids of all items, in ascending order."""
        return self.places[:, 0]

    @cached_property
    def slots(self) -> Int[np.ndarray, " n"]:
        """The slot of each item."""
        numbers = np.searchsorted(np.fromiter(self.shards, np.int64), self.places[:, 1])
        return self._bounds[numbers] + self.places[:, 2]

    @cached_property
    def id_of_slot(self) -> Int[np.ndarray, " S"]:
        """The id in each slot; -1 without an item."""
        ids = np.full(self.num_slots, -1)
        ids[self.slots] = self.ids
        return ids

    @property
    def num_slots(self) -> int:
        """Number of rows of all shards, those without an item included."""
        return int(self._bounds[-1])

    def find(self, ids: Sequence[int] | Int[np.ndarray, " a"]) -> tuple[Int[np.ndarray, " a"], Bool[np.ndarray, " a"]]:
        """Places of some ids in `ids`, and whether each is there."""
        asked = np.asarray(ids, np.int64)
        places = np.searchsorted(self.ids, asked)
        found = np.zeros(len(asked), bool)
        inside = places < len(self.ids)
        found[inside] = self.ids[places[inside]] == asked[inside]
        return places, found

    def split(self, number: int) -> tuple["Snapshot", "Snapshot"]:
        """The items in shards up to a number, and those in later shards."""
        parts = []
        for later in (False, True):
            shards = {each: shard for each, shard in self.shards.items() if (each > number) == later}
            parts.append(Snapshot(shards, self.encoding, self.places[(self.places[:, 1] > number) == later]))
        return parts[0], parts[1]

    def require_searchable(self, queries: Float[Tensor, "Q D"], k: int) -> None:
        """Checks the arguments of a search.

        Raises:
            ValueError: If `k` is not positive, or the queries have another width than the items.
        """
        if k < 1:
            raise ValueError(f"k is {k}; give a positive number")
        if self.encoding is not None and queries.shape[1] != self.encoding.width:
            raise ValueError(f"queries of width {queries.shape[1]} for items of width {self.encoding.width}")

    def items(self, ids: Sequence[int]) -> Encoded:
        """Embeddings and tokens of some items, in this order.

        Raises:
            KeyError: If there is no item with an id.
            ValueError: If there are no ids.
        """
        places, found = self.find(ids)
        if not len(found):
            raise ValueError("ask for at least one item")
        if self.encoding is None or not found.all():
            missing = [number for number, there in zip(ids, found, strict=True) if not there]
            raise KeyError(f"the store has no items with the ids {missing[:5]}")
        slots = self.slots[places]
        embeds = self.embeds(slots)
        features = gather_rows([shard.features for shard in self._shards], *self._rows(slots), "float16")
        if self.encoding.shares_vectors:
            features = Features(embeds, features.tokens, features.mask)
        return Encoded(self.encoding.kind, embeds, features, self.encoding.model)

    def embeds(self, slots: Int[np.ndarray, " a"]) -> Float[Tensor, "a D"]:
        """Embeddings in some slots, as float32."""
        numbers, rows = self._rows(slots)
        bits = np.empty((len(slots), self._bits[0].shape[1]), np.int16)
        for place, (number, row) in enumerate(zip(numbers.tolist(), rows.tolist(), strict=True)):
            bits[place] = self._bits[number][row]
        return torch.from_numpy(bits).view(torch.float16).float()

    @cached_property
    def _bits(self) -> list[Int[np.ndarray, "_ D"]]:
        """The embeddings of each shard."""
        return [shard.embeds.view(torch.int16).numpy() for shard in self._shards]

    @cached_property
    def _shards(self) -> list[Shard]:
        return list(self.shards.values())

    @cached_property
    def _bounds(self) -> Int[np.ndarray, " s"]:
        """The first slot of each shard, and the number of all slots."""
        return np.cumsum([0, *(len(shard) for shard in self._shards)], dtype=np.int64)

    def _rows(self, slots: Int[np.ndarray, " a"]) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " a"]]:
        """Which of the shards holds each slot, and the row in it."""
        numbers = np.searchsorted(self._bounds, slots, side="right") - 1
        return numbers, slots - self._bounds[numbers]
