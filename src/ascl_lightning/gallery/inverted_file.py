"""An inverted file (FAISS): cells of near embeddings, of which a search reads the few that are nearest to the query.

Source: Jégou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, TPAMI 2011, section IV. Here, cells
hold embeddings in 8 bits a number, and the number of cells to read is chosen by measuring the recall.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.data.arrays import damaged_arrays, load_array, save_arrays
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.exact_store import exact_search
from ascl_lightning.gallery.snapshot import Snapshot

RECALL = 0.985
"""Share of a sample's neighbours that must be found when an index is built, for 0.98 later."""
_SAMPLED_QUERIES, _NEIGHBOURS = 256, 64
_CELLS_PER_ROOT = 2
"""Number of cells divided by the square root of the number of items."""
_SAMPLE_PER_CELL = 50
_ITERATIONS = 10
_LARGEST_PART = 4
"""An index that must read more than this part of its cells is not faster than a scan."""
_SPARE = 2
"""Candidates per item to find: 8 bits cannot tell near scores apart."""
_BLOCK = 1 << 16
_FILES = "index", "built"


def has_faiss() -> bool:
    """Whether FAISS is installed."""
    return find_spec("faiss") is not None


@dataclass(frozen=True)
class InvertedFile:
    """An index of the items that a store had at one moment.

    Args:
        last_shard: Number of the last shard at that moment. All later items are in later shards.
        num_items: Number of items at that moment.
        probes: Number of cells to read per query; 0 if a scan is as fast.
        index: The FAISS index by id; None without probes.
    """

    last_shard: int
    num_items: int
    probes: int
    index: Any

    @classmethod
    def build(cls, snapshot: Snapshot) -> "InvertedFile":
        """Groups all items of a snapshot, at least one, and measures how many cells to read."""
        import faiss

        num_items, last = len(snapshot.ids), max(snapshot.shards)
        cells = min(num_items, int(_CELLS_PER_ROOT * num_items**0.5))
        draws = np.random.default_rng(0)
        sample = np.sort(draws.permutation(num_items)[: _SAMPLE_PER_CELL * cells])
        vectors = snapshot.embeds(snapshot.slots[sample])
        index: Any = faiss.index_factory(vectors.shape[1], f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter = _ITERATIONS
        # small galleries in tests have fewer items than FAISS advises
        index.cp.min_points_per_centroid = 1
        index.train(vectors.numpy())
        for start in range(0, num_items, _BLOCK):
            part = slice(start, start + _BLOCK)
            index.add_with_ids(snapshot.embeds(snapshot.slots[part]).numpy(), snapshot.ids[part])
        probes = _measured_probes(index, snapshot, draws)
        if probes * _LARGEST_PART > cells >= _LARGEST_PART:
            return cls(last, num_items, 0, None)
        index.nprobe = probes
        return cls(last, num_items, probes, index)

    def candidates(self, queries: Float[Tensor, "Q D"], k: int) -> Int[np.ndarray, "Q c"]:
        """Ids of items of which the k nearest to each query are probably some; -1 where there are fewer."""
        ids: np.ndarray = self.index.search(queries.numpy(), _SPARE * k)[1]
        return ids

    def save(self, folder: Path) -> None:
        """Writes the index.

        Raises:
            UnwritableError: If it cannot be written.
        """
        import faiss

        content = np.zeros(0, np.uint8) if self.index is None else faiss.serialize_index(self.index)
        built = np.array([self.last_shard, self.num_items, self.probes])
        save_arrays(folder, dict(zip(_FILES, (content, built), strict=True)))

    @classmethod
    def load(cls, folder: Path) -> "InvertedFile | None":
        """Reads what `save` wrote; None if there is nothing, or it is damaged: an index can be built again."""
        import faiss

        try:
            if not folder.is_dir() or damaged_arrays(folder, _FILES):
                return None
            content, built = (load_array(folder / f"{name}.npy") for name in _FILES)
        except UserError:
            return None
        last, num_items, probes = built.tolist()
        return cls(last, num_items, probes, faiss.deserialize_index(np.array(content)) if probes else None)


def _measured_probes(index: Any, snapshot: Snapshot, draws: np.random.Generator) -> int:
    """The least power of two of cells that finds enough neighbours of items with noise of their own length.

    A text is farther from the pictures that it describes than they are from each other; hence the noise.
    """
    chosen = snapshot.slots[draws.permutation(len(snapshot.ids))[:_SAMPLED_QUERIES]]
    items = snapshot.embeds(chosen)
    noise = torch.from_numpy(draws.standard_normal(items.shape)).float()
    queries = torch.nn.functional.normalize(items + torch.nn.functional.normalize(noise, dim=1), dim=1)
    count = min(_NEIGHBOURS, len(snapshot.ids))
    expected = exact_search(snapshot, queries, count).ids.numpy()
    probes = 1
    while probes < index.nlist:
        index.nprobe = probes
        found = index.search(queries.numpy(), _SPARE * count)[1]
        shared = [np.isin(one, others).mean() for one, others in zip(expected, found, strict=True)]
        if np.mean(shared) >= RECALL:
            return probes
        probes *= 2
    return int(index.nlist)
