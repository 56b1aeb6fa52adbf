"""The embedded store by number of items: disk, memory and latency, exact and with an inverted file.

Synthetic embeddings of width 256 in clusters of 1,000, top 64, one query at a time. A query is an item of a cluster,
with noise of its own length, as a text is farther from its pictures than they are from each other. Prints, for each
number of items, the recall of the index against an exact search, and the ratio of their times.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from plain import give_back_memory, measure
from synthetic_gallery import WIDTH, describe, median, times_of

from ascl_lightning.data.batch import Features
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.gallery.ivf_store import IvfStore
from ascl_lightning.search.encoded import Encoded

CLUSTER, K, QUERIES, UPSERT = 1000, 64, 200, 4096


def noisy(vectors: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Unit vectors with noise of their own length."""
    return F.normalize(vectors + F.normalize(torch.randn(vectors.shape, generator=generator), dim=1), dim=1)


def clustered(items: int) -> Iterator[torch.Tensor]:
    """Parts of the items."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(max(1, items // CLUSTER), WIDTH, generator=generator), dim=1)
    for start in range(0, items, UPSERT):
        number = min(UPSERT, items - start)
        yield noisy(centres[torch.randint(len(centres), (number,), generator=generator)], generator)


def measure_store(items: int, folder: Path) -> None:
    """Prints the figures of one number of items."""
    store, queries, start = IvfStore(folder, "write", smallest=1), [], time.perf_counter()
    generator = torch.Generator().manual_seed(1)
    none = torch.zeros(UPSERT, 0, 2), torch.zeros(UPSERT, 0, dtype=torch.bool)
    for number, part in enumerate(clustered(items)):
        ids = range(number * UPSERT, number * UPSERT + len(part))
        store.upsert(ids, Encoded("images", part, Features(part, *(each[: len(part)] for each in none)), "synthetic"))
        queries.append(noisy(part[:1], generator))
    written, start = time.perf_counter() - start, time.perf_counter()
    _, build_memory = measure(store.update_index, repeats=1)
    built = time.perf_counter() - start
    store.close()
    give_back_memory()
    sizes = [sum(file.stat().st_size for file in folder.rglob(f"{name}.npy")) for name in ("pooled", "index")]
    print(f"{items:,} items written in {written:.1f} s, {sizes[0] >> 20:,} MiB of embeddings")
    exact, indexed = ExactStore(folder), IvfStore(folder, smallest=1)
    start = time.perf_counter()
    exact.search(queries[0], K)
    print(f"  opened, and first search: {time.perf_counter() - start:.2f} s")
    index = indexed._built()
    assert index is not None
    print(f"  index: built in {built:.1f} s with {build_memory:.0f} MiB, {sizes[1] >> 20:,} MiB, {index.probes} probes")
    asked = torch.cat([queries[number % len(queries)] for number in range(QUERIES)])
    asked = noisy(asked, generator) if len(queries) < QUERIES else asked
    turns = [iter(asked.repeat(3, 1).split(1)) for _ in range(2)]
    runs = {"exact": lambda: exact.search(next(turns[0]), K), "index": lambda: indexed.search(next(turns[1]), K)}
    times = times_of(runs, 2 * QUERIES)
    for name, of in times.items():
        print(f"  {name}: {describe(of)}")
    found, expected = indexed.search(asked, K).ids, exact.search(asked, K).ids
    shared = [len({*ours} & {*theirs}) for ours, theirs in zip(found.tolist(), expected.tolist(), strict=True)]
    print(f"  recall {sum(shared) / expected.numel():.4f}")
    print(f"  ratio: exact / index {median(times['exact']) / median(times['index']):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    for items in parser.parse_args().items:
        with tempfile.TemporaryDirectory() as folder:
            measure_store(items, Path(folder))


if __name__ == "__main__":
    main()
