"""A page of what the model retrieves: queries spread over the test split, with their first five results each way."""

from dataclasses import dataclass

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from ascl_lightning.callbacks.parts import is_trial, retrieval_data, retrieval_module, run_folder
from ascl_lightning.callbacks.tables import COLUMNS, recall_rows
from ascl_lightning.data.views import SplitView
from ascl_lightning.pages import original, render, thumbnail

NUM_QUERIES = 8
NUM_RESULTS = 5
_THUMBNAIL = 128


@dataclass(frozen=True)
class Result:
    """One retrieved row of the split, and whether it belongs to the query."""

    row: int
    score: float
    correct: bool


@dataclass(frozen=True)
class Retrieval:
    """A query row of the split with its best results, best first."""

    query: int
    results: list[Result]


def top_results(scores: Tensor, queries: Tensor, correct: Tensor) -> list[Retrieval]:
    """The best columns of each row.

    Args:
        scores: Of each query with each candidate, (Q, C).
        queries: Row of each query in the split, (Q,).
        correct: True where a candidate belongs to the query, (Q, C).
    """
    values, columns = scores.topk(min(NUM_RESULTS, scores.shape[1]), dim=1)
    hits = correct.gather(1, columns)
    rows = zip(queries.tolist(), columns.tolist(), values.tolist(), hits.tolist(), strict=True)
    return [
        Retrieval(query, [Result(*result) for result in zip(columns, values, hits, strict=True)])
        for query, columns, values, hits in rows
    ]


class RetrievedExamples(Callback):
    """Writes `examples.html` to the run's folder at the end of a test: one file, pictures included."""

    def __init__(self) -> None:
        self._text_queries: list[Retrieval] = []
        self._image_queries: list[Retrieval] = []

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores a few queries against the whole gallery, before the module forgets what it encoded."""
        if trainer.world_size > 1 or is_trial(trainer):
            return
        gallery = retrieval_module(pl_module).evaluation.gallery()
        some_images, every_image = _queries(gallery.images.ids)
        some_texts, every_text = _queries(gallery.texts.ids)
        with torch.no_grad():
            self._text_queries = top_results(
                gallery.score(every_image, some_texts).T,
                some_texts,
                gallery.image_of_text[some_texts, None] == every_image,
            )
            self._image_queries = top_results(
                gallery.score(some_images, every_text),
                some_images,
                some_images[:, None] == gallery.image_of_text,
            )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the page."""
        if not self._text_queries:
            return
        view = retrieval_data(trainer).view("test")
        captions = [caption for of_image in view.split.captions for caption in of_image]
        metrics = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
        page = render(
            "callbacks/examples.html.jinja",
            columns=COLUMNS,
            table=recall_rows(metrics),
            text_queries=self._text_queries,
            image_queries=self._image_queries,
            captions=captions,
            thumbnail=lambda row: _thumbnail(view, row),
            name=lambda row: view.split.image_ids[row],
            num_images=len(view.split),
            num_texts=len(captions),
        )
        path = run_folder(trainer) / "examples.html"
        path.write_text(page, encoding="utf-8")
        Console().print(f"Examples: {path}", soft_wrap=True)


def _queries(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Up to `NUM_QUERIES` numbers at even distances, and all of them."""
    size = len(ids)
    spread = torch.linspace(0, size - 1, min(NUM_QUERIES, size), device=ids.device).long()
    return spread, torch.arange(size, device=ids.device)


def _thumbnail(view: SplitView, row: int) -> str | None:
    """A small picture of an image; None where the split has no pictures."""
    picture = original(view, row)
    return None if picture is None else thumbnail(picture, _THUMBNAIL)
