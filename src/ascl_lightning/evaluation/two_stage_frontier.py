"""Evaluation of two-stage search at several budgets, for `--retrieval two_stage`."""

import json
import math
import time
from statistics import mean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.metrics.labels import HEADLINES, label
from ascl_lightning.metrics.ranks import streamed_ranks
from ascl_lightning.metrics.recall import metrics_from_ranks
from ascl_lightning.runtime.files import write_file
from ascl_lightning.search.latency import time_full_search
from ascl_lightning.search.two_stage import shortlist, two_stage_ranks
from ascl_lightning.training.accessors import is_fast_dev_run, ranked_split, retrieval_module, run_folder

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Budgets of the second stage, as fractions of the gallery."""
COLUMNS = ("shortlist", "fused %", *(label(name) for name in HEADLINES), "ms per query")
_TIMED = 20


class TwoStageFrontier(Callback):
    """Recall, fraction of pairs with the fused score, and time per query, for several budgets.

    Shortlists have the same length for all queries (`fixed`), or a length chosen by first-stage margins under the same
    total budget (`margin`). The last row computes the fused score of all pairs. Queries are searched one by one, as in
    a server. Writes `two_stage.json` to the run's folder and prints a table.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Searches before the module discards the encoded split."""
        if ranked_split(trainer) is None:
            return
        with torch.no_grad():
            self._rows = frontier(retrieval_module(pl_module).evaluation.gallery())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and prints the results on rank 0."""
        if is_fast_dev_run(trainer) or not self._rows:
            return
        path = run_folder(trainer) / "two_stage.json"
        if not trainer.is_global_zero:
            return
        write_file(path, json.dumps(self._rows, indent=2) + "\n")
        table = Table(*(Column(name, justify="right") for name in COLUMNS), title="Two-stage search")
        for row in self._rows:
            cells = (row[name] for name in COLUMNS)
            table.add_row(*(f"{cell:.1f}" if isinstance(cell, float) else cell for cell in cells))
        console = Console()
        console.print(table)
        console.print(f"Two-stage search: {path}", soft_wrap=True)

    on_test_epoch_end = on_validation_epoch_end
    on_test_end = on_validation_end


def frontier(gallery: Gallery) -> list[dict[str, Any]]:
    """A row of metrics for each kind and budget; the last row is full search."""
    rows = [_search(gallery, kind, share) for kind in ("fixed", "margin") for share in SHARES]
    ranks = streamed_ranks(gallery.score, len(gallery.images.ids), gallery.image_of_text)
    milliseconds = _milliseconds_of_full_query(gallery)
    return [*rows, {"shortlist": "all", "fused %": 100.0, **_figures(*ranks), "ms per query": milliseconds}]


def _search(gallery: Gallery, kind: str, share: float) -> dict[str, Any]:
    """One row: both directions at a budget."""
    images, texts = _numbers(gallery)
    owner = gallery.image_of_text
    start = time.perf_counter()
    ranks, pairs = [], 0
    for queries, candidates, groups, score in (
        (gallery.images.embeds, gallery.texts.embeds, (images, owner), gallery.compute),
        (gallery.texts.embeds, gallery.images.embeds, (owner, images), lambda q, c: gallery.compute(c, q).T),
    ):
        length = max(1, math.floor(share * len(candidates)))
        listed = shortlist(queries, candidates, length, adaptive=kind == "margin")
        ranks.append(two_stage_ranks(score, queries, candidates, listed, *groups))
        pairs += listed.num_pairs
    seconds = time.perf_counter() - start
    fused = 100 * pairs / (2 * len(images) * len(texts))
    milliseconds = 1000 * seconds / (len(images) + len(texts))
    return {"shortlist": kind, "fused %": fused, **_figures(*ranks), "ms per query": milliseconds}


def _milliseconds_of_full_query(gallery: Gallery) -> float:
    """Mean time of full search per query, from a few queries of each direction, weighted by their numbers."""
    images, texts = _numbers(gallery)
    by_image = time_full_search(gallery.compute, images[:_TIMED], len(texts))
    by_text = time_full_search(lambda query, others: gallery.compute(others, query).T, texts[:_TIMED], len(images))
    of_image, of_text = (mean(of.milliseconds for of in times) for times in (by_image, by_text))
    return (of_image * len(images) + of_text * len(texts)) / (len(images) + len(texts))


def _numbers(gallery: Gallery) -> tuple[Tensor, Tensor]:
    device = gallery.image_of_text.device
    return torch.arange(len(gallery.images.ids), device=device), torch.arange(len(gallery.texts.ids), device=device)


def _figures(image_to_text_ranks: Tensor, text_to_image_ranks: Tensor) -> dict[str, float]:
    metrics = metrics_from_ranks(image_to_text_ranks, text_to_image_ranks)
    return {label(name) if name in HEADLINES else name: value for name, value in metrics.items()}
