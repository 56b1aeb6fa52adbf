"""First stage of a search: the embedded store with 100,000 items of width 256, against bare matrix products.

One query at a time, top 64. Store and products alternate, in one process; "top k" is the product with
`topk`. Prints medians and minima, the ratio of medians, and the recall of the store against exact float32.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.search.encoded import Encoded

ITEMS, WIDTH, K, QUERIES, UPSERT = 100_000, 256, 64, 100, 2048


def unit_vectors(number: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(number, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)


def fill(store: ExactStore, embeds: torch.Tensor) -> float:
    """Seconds that writing all items took."""
    start = time.perf_counter()
    for ids in torch.arange(len(embeds)).split(UPSERT):
        part = embeds[ids]
        none = torch.zeros(len(ids), 0, 2), torch.zeros(len(ids), 0, dtype=torch.bool)
        store.upsert(ids.tolist(), Encoded("images", part, Features(part, *none), "random"))
    return time.perf_counter() - start


def milliseconds(
    searches: dict[str, Callable[[torch.Tensor], object]], queries: torch.Tensor
) -> dict[str, list[float]]:
    """Times of each search for each query; the first query only warms up."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    for query in queries.split(1):
        for name, search in searches.items():
            start = time.perf_counter()
            search(query)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: of[1:] for name, of in times.items()}


def main(items: int = ITEMS) -> None:
    embeds, queries = unit_vectors(items, seed=0), unit_vectors(QUERIES, seed=1)
    halves = embeds.half()
    with tempfile.TemporaryDirectory() as folder:
        writer = ExactStore(Path(folder), "write")
        print(f"{items:,} x {WIDTH} written in {fill(writer, embeds):.1f} s")
        writer.close()
        start = time.perf_counter()
        store = ExactStore(Path(folder))
        store.search(queries[:1], K)
        print(f"opened, and first search: {time.perf_counter() - start:.2f} s")
        times = milliseconds(
            {
                "store": lambda query: store.search(query, K),
                "half, top k": lambda query: F.linear(query.half(), halves).topk(K),
                "half": lambda query: F.linear(query.half(), halves),
                "float32, top k": lambda query: (query @ embeds.T).topk(K),
                "float32": lambda query: query @ embeds.T,
            },
            queries,
        )
        found = store.search(queries, K)
        store.close()
    for name, of in times.items():
        print(f"{name:14s} p50 {median(of):6.1f} ms, fastest {min(of):6.1f} ms")
    for name in list(times)[1:]:
        print(f"store / {name:14s} {median(times['store']) / median(times[name]):.2f}")
    nearest = (queries @ embeds.T).topk(K).indices
    shared = [len(set(ours.tolist()) & set(theirs.tolist())) for ours, theirs in zip(found.ids, nearest, strict=True)]
    print(f"recall of the store's {K} against exact float32: {sum(shared) / (K * QUERIES):.5f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
