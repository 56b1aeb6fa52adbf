"""The embedded store for millions of items: an exact store with an index for searches, if it is large."""

import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.gallery.database import Mode
from ascl_lightning.gallery.exact_store import ExactStore, exact_search, nearest_of
from ascl_lightning.gallery.inverted_file import InvertedFile, has_faiss
from ascl_lightning.gallery.snapshot import Snapshot
from ascl_lightning.gallery.store import Neighbours, no_neighbours

SMALLEST = 400_000
"""Items from which an index is built: a scan of as many takes about 15 ms on two cores (benchmarks/README.md)."""
_CHANGED = 10
"""An index is built again when one of so many items has changed."""
_FOLDER = "ivf"
_LOGGER = logging.getLogger(__name__)


class IvfStore(ExactStore):
    """An `ExactStore` that searches its items by an inverted file, if there are many and FAISS is installed.

    Candidates of the index are scored exactly. Items that were written after it was built are scanned, and removed ones
    are left out. Searches among `allowed` items are exact.

    Args:
        folder: The folder; created for writing.
        mode: Whether to write, which one process may do at a time, or only to read.
        smallest: Number of items from which an index is built.

    Raises:
        UserError: If another process writes the folder, or if it cannot be read or written.
    """

    def __init__(self, folder: Path, mode: Mode = "read", smallest: int = SMALLEST) -> None:
        super().__init__(folder, mode)
        self._smallest = smallest
        self._index_folder = folder / _FOLDER
        self._index: tuple[int, InvertedFile | None] | None = None
        self._halves: tuple[Snapshot, InvertedFile, Snapshot, Snapshot] | None = None

    def update_index(self) -> None:
        """Builds the index if there are enough items, and there is none or many items have changed since.

        Raises:
            UserError: If it cannot be written.
        """
        self._require_writer()
        snapshot = self.snapshot()
        if len(snapshot.ids) < self._smallest:
            return
        if not has_faiss():
            _LOGGER.warning(
                "'%s' has %s items: pip install 'ascl-lightning[faiss]' and index again to search them faster",
                self._folder,
                f"{len(snapshot.ids):,}",
            )
            return
        built = self._built()
        if built is not None:
            kept, later = snapshot.split(built.last_shard)
            if (built.num_items - len(kept.ids) + len(later.ids)) * _CHANGED < built.num_items:
                return
        InvertedFile.build(snapshot).save(self._index_folder)

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "Q D"], k: int, allowed: Int[np.ndarray, " a"] | None = None) -> Neighbours:
        """See `VectorStore.search`. Without `allowed`, some of the nearest items of a large store may be missing."""
        snapshot = self.snapshot()
        built = self._built() if allowed is None and len(snapshot.ids) >= self._smallest else None
        if built is None or not built.probes:
            return exact_search(snapshot, queries, k, allowed)
        snapshot.require_searchable(queries, k)
        queries = queries.detach().cpu().float()
        kept, later = self._split(snapshot, built)
        found = _join(_indexed(kept, built, queries, k), exact_search(later, queries, k), k)
        if bool((found.ids >= 0).sum(1).min() < min(k, len(snapshot.ids))):
            return exact_search(snapshot, queries, k)
        return found

    def _built(self) -> InvertedFile | None:
        """The index in the folder, read again when it was replaced."""
        try:
            version = self._index_folder.stat().st_mtime_ns
        except OSError:
            return None
        with self._guard:
            if self._index is None or self._index[0] != version:
                self._index = version, InvertedFile.load(self._index_folder) if has_faiss() else None
            return self._index[1]

    def _split(self, snapshot: Snapshot, built: InvertedFile) -> tuple[Snapshot, Snapshot]:
        """Items that the index may have, and later ones."""
        with self._guard:
            if self._halves is None or self._halves[0] is not snapshot or self._halves[1] is not built:
                self._halves = snapshot, built, *snapshot.split(built.last_shard)
            return self._halves[2:]


def _indexed(snapshot: Snapshot, built: InvertedFile, queries: Float[Tensor, "Q D"], k: int) -> Neighbours:
    """Exact scores of the index' candidates that are still there."""
    found = no_neighbours(len(queries), k)
    for row, ids in enumerate(built.candidates(queries, k)):
        places, here = snapshot.find(np.sort(ids))
        if not here.any():
            continue
        best, numbers = nearest_of(snapshot, queries[row], snapshot.slots[places[here]], k)
        found.scores[row, : len(best)] = best
        found.ids[row, : len(best)] = numbers
    return found


def _join(one: Neighbours, other: Neighbours, k: int) -> Neighbours:
    """The k best of both, whose items differ; those of equal score are ordered by id."""
    ids, scores = torch.cat([one.ids, other.ids], 1), torch.cat([one.scores, other.scores], 1)
    by_id = ids.argsort(dim=1)
    ids, scores = ids.gather(1, by_id), scores.gather(1, by_id)
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return Neighbours(ids.gather(1, best), scores.gather(1, best))
