"""What a gallery needs of the place where its embeddings and local tokens lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.search.encoded import Encoded


@dataclass(frozen=True)
class Neighbours:
    """The k items nearest to each of Q queries."""

    ids: Int[Tensor, "Q k"]
    """Ids of the items (int64), best first; -1 where there are fewer than k items."""
    scores: Float[Tensor, "Q k"]
    """Cosines of their embeddings with the query's; -inf where there are fewer than k items."""


def no_neighbours(num_queries: int, k: int) -> Neighbours:
    """The result of a search that finds nothing, to be filled."""
    return Neighbours(torch.full((num_queries, k), -1), torch.full((num_queries, k), -torch.inf))


@runtime_checkable
class VectorStore(Protocol):
    """Embeddings and local tokens of items, by id. What a call that returned has written survives a crash.

    All items are of one kind, and encoded by one model. Numbers are stored as float16. `search` and the other reading
    methods may be called from several threads.
    """

    def upsert(self, ids: Sequence[int], items: Encoded) -> None:
        """Adds items, or replaces those that have these ids: all of them, or none if it fails.

        Args:
            ids: Distinct numbers from 0, one per item.
            items: The encoded items, with L2-normalised embeddings.

        Raises:
            ValueError: If the ids are not distinct, are negative or do not match the items, or if embeddings are not
                normalised.
            UserError: If the items are of another kind or model than those in the store, or cannot be written.
        """

    def delete(self, ids: Sequence[int]) -> None:
        """Removes items. Ids that the store does not have are ignored.

        Raises:
            UserError: If the store cannot be written.
        """

    def search(self, queries: Float[Tensor, "Q D"], k: int, allowed: Int[np.ndarray, " a"] | None = None) -> Neighbours:
        """The items nearest to each query by cosine.

        Args:
            queries: L2-normalised embeddings.
            k: Number of items per query.
            allowed: Ids of the items to search; ids that the store does not have are ignored. None: all items.

        Raises:
            ValueError: If `k` is not positive, or the queries have another width than the items.
        """

    def items(self, ids: Sequence[int]) -> Encoded:
        """Embeddings and tokens of some items in this order, as float32 on the CPU.

        Raises:
            KeyError: If the store does not have an id.
            ValueError: If there are no ids.
        """

    def ids(self) -> Int[np.ndarray, " n"]:
        """Ids of all items, in ascending order."""

    def count(self) -> int:
        """Number of items."""

    def close(self) -> None:
        """Releases files and connections. The store cannot be used any more."""
