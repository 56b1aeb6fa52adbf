"""Latency of single queries, with full and with two-stage search."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.search.top_k import ScoreBlock
from ascl_lightning.search.two_stage import rescore, shortlist

_RESULTS = 10


@dataclass(frozen=True)
class QueryTime:
    """Time of a query from its features to the numbers of its best candidates."""

    query: int
    milliseconds: float


def time_full_search(score_block: ScoreBlock, queries: Int[Tensor, " q"], num_candidates: int) -> list[QueryTime]:
    """Scores each query with every candidate, one query at a time.

    Args:
        score_block: Computes the scores of some queries with some candidates.
        queries: Numbers of the queries.
        num_candidates: Size of the gallery.
    """
    every = torch.arange(num_candidates, device=queries.device)
    return _timed(lambda query: score_block(query, every), queries)


def time_two_stage_search(
    score_block: ScoreBlock,
    queries: Int[Tensor, " q"],
    query_embeds: Float[Tensor, "Q D"],
    candidate_embeds: Float[Tensor, "C D"],
    length: int,
) -> list[QueryTime]:
    """Scores only a shortlist by independent embeddings, one query at a time.

    Args:
        score_block: As for `time_full_search`.
        queries: Numbers of the queries.
        query_embeds: Embeddings of all queries.
        candidate_embeds: Embeddings of all candidates.
        length: Length of the shortlist.
    """

    def search(query: Tensor) -> Tensor:
        listed = shortlist(query_embeds[query], candidate_embeds, length)
        return rescore(lambda _, candidates: score_block(query, candidates), listed)

    return _timed(search, queries)


@torch.no_grad()
def _timed(search: Callable[[Tensor], Tensor], queries: Int[Tensor, " q"]) -> list[QueryTime]:
    _best(search(queries[:1]))  # warm-up: the first call compiles kernels and allocates buffers
    times = []
    for query in queries.split(1):
        start = time.perf_counter()
        _best(search(query))
        times.append(QueryTime(int(query), 1000 * (time.perf_counter() - start)))
    return times


def _best(scores: Float[Tensor, "1 C"]) -> list[int]:
    """Numbers of the best candidates; making the list waits for the device."""
    numbers: list[int] = scores[0].topk(min(_RESULTS, scores.shape[1])).indices.tolist()
    return numbers
