"""Files for `ascl report` that need the model: examples, attention, score histograms and latency."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info
from PIL import Image
from torch import Tensor

from ascl_lightning.evaluation.examples import spread
from ascl_lightning.evaluation.page.pictures import webp
from ascl_lightning.evaluation.shown_queries import ShownQueries
from ascl_lightning.evaluation.side_by_side import SHORTLISTED
from ascl_lightning.metrics.gallery import Gallery, Score
from ascl_lightning.metrics.histograms import score_histograms
from ascl_lightning.metrics.query_results import DIRECTIONS, Direction
from ascl_lightning.metrics.ranks import ranks_from_similarity
from ascl_lightning.runtime.files import write_file
from ascl_lightning.search.latency import QueryTime, time_full_search, time_two_stage_search
from ascl_lightning.training.accessors import (
    is_fast_dev_run,
    ranked_split,
    retrieval_data,
    retrieval_module,
    run_folder,
)

TIMED = 10
"""Number of timed queries per direction."""
_SLOWEST = 3
_THUMBNAIL = 192


class Evidence(Callback):
    """Writes `examples.json`, `attention.json`, `histograms.json`, `latency.json` and `pictures/` to the run's folder.

    Runs at the end of `ascl validate` and `ascl test`, with the score that the model ranks by. The histograms include
    T+ and T- if the report card ran.
    """

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}
        self._scores: tuple[Tensor, Tensor] | None = None
        """Scores of all images with all texts, and the image of each text."""
        self._pictures: dict[str, Image.Image] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collects the content on all ranks, before the module discards the encoded split."""
        split = ranked_split(trainer)
        if split is None or is_fast_dev_run(trainer):
            return
        module, data = retrieval_module(pl_module), retrieval_data(trainer)
        gallery = module.evaluation.gallery()
        similarity, image_of_text = gallery.matrices()["fused"].cpu(), gallery.image_of_text.cpu()
        shown = ShownQueries(gallery, data.view(split), similarity)
        examples, worst, searches = {}, {}, []
        for direction, ranks in zip(DIRECTIONS, ranks_from_similarity(similarity, image_of_text), strict=True):
            full, two_stage = _timed_searches(gallery, module.model.score, direction, ranks)
            longest = sorted(full.times, key=lambda of: -of.milliseconds)[:_SLOWEST]
            examples[direction] = shown.examples(direction, ranks, [of.query for of in longest])
            worst[direction] = shown.worst(direction, ranks)
            searches += [full.described(), two_stage.described()]
        self._scores = similarity, image_of_text
        self._files = {
            "examples.json": {"score": "fused", **examples, "worst": worst},
            "attention.json": shown.attention(module.model.similarity, data.tokenizer()),
            "latency.json": {**_machine(gallery), "searches": searches},
        }
        self._pictures = shown.pictures

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files on rank 0."""
        if self._scores is None:
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            # only now, because the report card is also computed at the end of the epoch
            histograms = score_histograms(*self._scores, retrieval_module(pl_module).findings.made_scores)
            self._files["histograms.json"] = {"score": "fused", **asdict(histograms)}
            _write(folder, self._files, self._pictures)
            rank_zero_info(f"Examples, attention, histograms and times: {folder}")
        self._files, self._pictures, self._scores = {}, {}, None

    on_test_epoch_end = on_validation_epoch_end
    on_test_end = on_validation_end


@dataclass(frozen=True)
class _Search:
    """Times of single queries of one direction with one kind of search."""

    direction: Direction
    name: str
    scored: int
    """Number of candidates that get the fused score."""
    times: list[QueryTime]
    rows: Tensor
    """Rows of all queries in the split."""

    def described(self) -> dict[str, Any]:
        queries = [{"row": int(self.rows[of.query]), "milliseconds": of.milliseconds} for of in self.times]
        return {
            **{"direction": self.direction, "search": self.name, "scored": self.scored},
            **{"median": median(of.milliseconds for of in self.times), "queries": queries},
        }


def _timed_searches(gallery: Gallery, score: Score, direction: Direction, ranks: Tensor) -> tuple[_Search, _Search]:
    """Times a few queries one by one with full and two-stage search, without cached scores."""
    queries = (ranks > 0).nonzero().flatten()
    queries = spread(queries, TIMED).to(gallery.image_of_text.device)
    by_image = direction == "image_to_text"
    items, candidates = (gallery.images, gallery.texts) if by_image else (gallery.texts, gallery.images)

    def score_block(some: Tensor, others: Tensor) -> Tensor:
        query, listed = items.select(some), candidates.select(others)
        return score(query, listed) if by_image else score(listed, query).T

    size = len(candidates.ids)
    length = max(1, math.floor(SHORTLISTED * size))
    full = time_full_search(score_block, queries, size)
    two_stage = time_two_stage_search(score_block, queries, items.embeds, candidates.embeds, length)
    return (
        _Search(direction, "full", size, full, items.ids),
        _Search(direction, "two_stage", length, two_stage, items.ids),
    )


def _machine(gallery: Gallery) -> dict[str, Any]:
    device = gallery.image_of_text.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        **{"device": name, "threads": torch.get_num_threads(), "shortlist": SHORTLISTED},
        **{"num_images": len(gallery.images.ids), "num_texts": len(gallery.texts.ids)},
    }


def _write(folder: Path, files: dict[str, Any], pictures: dict[str, Image.Image]) -> None:
    for path, picture in pictures.items():
        write_file(folder / path, webp(picture, _THUMBNAIL))
    for name, content in files.items():
        write_file(folder / name, json.dumps(content, ensure_ascii=False) + "\n")
