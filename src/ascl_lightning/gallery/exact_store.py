"""The embedded store: exact search in memory-mapped shards, with nothing to start or to build.

Queries are first compared with all items in half precision. Every item whose score is within the rounding error of the
k-th best is then scored exactly, so that the result is that of an exact search among the stored embeddings.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ascl_lightning.gallery.item_shards import ItemShards
from ascl_lightning.gallery.snapshot import Snapshot
from ascl_lightning.gallery.store import Neighbours, no_neighbours

_BLOCK_SCORES = 1 << 25
"""Scores in memory at a time: 128 MiB."""
_PART = 4096
"""Candidates that are scored exactly at a time."""
_GROUPS = 32
"""Groups of scores per item to find: few groups have two of the best scores, so that few candidates are added."""
_NORM = 1.02
"""No stored embedding is longer: they are normalised to 1% and rounded to float16."""
_UNIT = 2.0**-11
"""Largest relative error of a number rounded to float16, unless it is small."""
_SMALLEST = 2.0**-25
"""Largest error of a small number."""


class ExactStore(ItemShards):
    """Embeddings and local tokens in a folder, searched exactly. A `VectorStore`.

    Args:
        folder: The folder; created for writing.
        mode: Whether to write, which one process may do at a time, or only to read.

    Raises:
        UserError: If another process writes the folder, or if it cannot be read or written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ascl_lightning.data.batch import Features
        >>> from ascl_lightning.search.encoded import Encoded
        >>> none = torch.zeros(3, 0, 2), torch.zeros(3, 0, dtype=torch.bool)
        >>> items = Encoded("images", torch.eye(3), Features(torch.eye(3), *none), model="of an example")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = ExactStore(Path(folder), "write")
        ...     store.upsert([7, 8, 9], items)
        ...     store.search(torch.tensor([[0.6, 0.8, 0.0]]), k=2).ids.tolist()
        [[8, 7]]
    """

    def search(self, queries: Float[Tensor, "Q D"], k: int, allowed: Int[np.ndarray, " a"] | None = None) -> Neighbours:
        """See `VectorStore.search`. Items of equal score are ordered by id."""
        return exact_search(self.snapshot(), queries, k, allowed)


@torch.no_grad()
def exact_search(
    snapshot: Snapshot, queries: Float[Tensor, "Q D"], k: int, allowed: Int[np.ndarray, " a"] | None = None
) -> Neighbours:
    """The items of a snapshot that are nearest to each query; see `VectorStore.search`."""
    snapshot.require_searchable(queries, k)
    queries = queries.detach().cpu().float()
    found = no_neighbours(len(queries), k)
    searched, num_searched = _searched(snapshot, allowed)
    if num_searched:
        for row, slots in enumerate(_candidates(snapshot, queries, min(k, num_searched), searched)):
            best, ids = nearest_of(snapshot, queries[row], slots, k)
            found.scores[row, : len(best)] = best
            found.ids[row, : len(best)] = ids
    return found


def _searched(snapshot: Snapshot, allowed: Int[np.ndarray, " a"] | None) -> tuple[Bool[Tensor, " S"] | None, int]:
    """Which slots to search, None for all of them; and how many."""
    slots = snapshot.slots
    if allowed is not None:
        places, found = snapshot.find(np.unique(allowed))
        slots = slots[places[found]]
    elif len(slots) == snapshot.num_slots:
        return None, len(slots)
    searched = torch.zeros(snapshot.num_slots, dtype=torch.bool)
    searched[torch.from_numpy(slots)] = True
    return searched, len(slots)


def _candidates(
    snapshot: Snapshot, queries: Float[Tensor, "Q D"], k: int, searched: Bool[Tensor, " S"] | None
) -> Iterator[Int[np.ndarray, " c"]]:
    """Yields the slots of all items that may be among the k nearest of each query, in ascending order of ids."""
    for block in queries.split(max(1, _BLOCK_SCORES // snapshot.num_slots)):
        halves = block.half()
        rough = torch.cat([F.linear(halves, shard.embeds) for shard in snapshot.shards.values()], dim=1).float()
        if searched is not None:
            rough.masked_fill_(~searched, -torch.inf)
        # sums are accumulated in float32; queries, and sums at last, are rounded to float16
        relative = _UNIT + queries.shape[1] * 2.0**-24
        error = _NORM * ((block - halves.float()).norm(dim=1) + relative * block.norm(dim=1)) + _SMALLEST
        least = _reached_by(rough, k) - 2 * error
        for scores, bound in zip(rough, least, strict=True):
            slots = np.flatnonzero(scores.numpy() >= bound.item())
            yield slots[snapshot.id_of_slot[slots].argsort()]


def _reached_by(scores: Float[Tensor, "Q S"], k: int) -> Float[Tensor, " Q"]:
    """A score that at least k scores of each query reach, near the k-th best.

    It is the k-th best of the maxima of many groups, because finding it among all scores takes several times longer.
    """
    groups = _GROUPS * k
    size = scores.shape[1] // groups
    if size > 1:
        maxima = scores[:, : size * groups].unflatten(1, (size, groups)).amax(1)
        reached = maxima.topk(k, dim=1).values[:, -1]
        # a filter may leave fewer groups
        if bool((reached > -torch.inf).all()):
            return reached
    return scores.topk(k, dim=1).values[:, -1]


def nearest_of(
    snapshot: Snapshot, query: Float[Tensor, " D"], slots: Int[np.ndarray, " c"], k: int
) -> tuple[Float[Tensor, " k"], Int[Tensor, " k"]]:
    """Exact scores and ids of the nearest items in some slots, which are in ascending order of ids."""
    query = query.double()
    # in float64, the score of equal embeddings does not depend on their places
    parts = [snapshot.embeds(part).double() @ query for part in np.split(slots, range(_PART, len(slots), _PART))]
    scores = torch.cat(parts).float()
    places = scores.argsort(descending=True, stable=True)[:k]
    return scores[places], torch.from_numpy(snapshot.id_of_slot[slots])[places]
