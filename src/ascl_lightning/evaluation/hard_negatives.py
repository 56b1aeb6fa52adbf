"""Results of `ascl test` on a compositional benchmark: accuracy by category, with a text-only control."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from ascl_lightning.data.sources.base import Choice, Choices
from ascl_lightning.data.text import clean_caption
from ascl_lightning.evaluation.report_card.variant_scores import TextItems
from ascl_lightning.evaluation.run_files import HARD_NEGATIVES
from ascl_lightning.evaluation.tables import hard_negatives_table
from ascl_lightning.metrics.choices import CONTROL, blind_scores, choice_results
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.metrics.intervals import Interval, mean_interval
from ascl_lightning.runtime.files import write_file
from ascl_lightning.training.accessors import (
    evaluated_split,
    is_fast_dev_run,
    retrieval_data,
    retrieval_module,
    run_folder,
)

ALL = "all"
"""The row of all tests."""
_BLIND = "control"


class HardNegativeResults(Callback):
    """Measures the tests of a source of hard negatives, in `ascl test`; writes and prints them.

    A test is solved if the caption scores higher with its image than every wrong text; ties are failures. Each image is
    scored with the texts of its own tests. Writes `hard_negatives.json` to the run's folder.
    """

    def __init__(self) -> None:
        self._content: dict[str, Any] | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the module from ranking a benchmark, and deletes the file of an earlier run in the same folder."""
        retrieval_module(pl_module).findings.is_ranked = _choices(trainer) is None
        if is_fast_dev_run(trainer):
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            (folder / HARD_NEGATIVES).unlink(missing_ok=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures on all ranks, before the module discards the encoded split."""
        choices, module = _choices(trainer), retrieval_module(pl_module)
        if choices is None:
            return
        gallery = module.evaluation.gallery()
        module.evaluation.reset()
        if is_fast_dev_run(trainer):
            return
        items = TextItems(module.model, retrieval_data(trainer).tokenizer(), module.device, None)
        texts = distinct_texts(choices.tests)
        # only towers run in the precision of the run
        with trainer.strategy.precision_plugin.forward_context():
            encoded = items(texts)
        owners = torch.zeros(len(texts), dtype=torch.long, device=gallery.image_of_text.device)
        rows = measured_rows(choices.tests, texts, gallery.with_texts(encoded, owners))
        self._content = {
            "num_images": len(gallery.images.ids),
            "num_tests": len(choices.tests),
            "left_out": dict(choices.left_out),
            "truncated_texts": items.num_truncated(texts),
            "control": CONTROL,
            "rows": rows,
        }
        metrics = {
            f"test/hard_negatives/{row['category']}/{row['figure']}/{score}": figure["value"]
            for row in rows
            for score, figure in row["scores"].items()
        }
        module.log_dict(metrics, rank_zero_only=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and prints the results on rank 0."""
        content, self._content = self._content, None
        if content is None:
            return
        path = run_folder(trainer) / HARD_NEGATIVES
        if not trainer.is_global_zero:
            return
        write_file(path, json.dumps(content, indent=1) + "\n")
        leaks = retrieval_module(pl_module).findings.leaks
        title = "Test split" + (" (invalid: data leak)" if leaks is not None and leaks.found else "")
        console = Console()
        console.print(hard_negatives_table(title, content))
        for reason, count in content["left_out"].items():
            console.print(f"Left out: {count:,} tests: {reason}", soft_wrap=True)
        console.print(f"Hard negatives with 95% confidence intervals over images: {path}", soft_wrap=True)


def _choices(trainer: Trainer) -> Choices | None:
    split = evaluated_split(trainer)
    return None if split is None else retrieval_data(trainer).view(split).split.choices


def distinct_texts(tests: Sequence[Choice]) -> list[str]:
    """The texts of all tests after clean-up, each once."""
    return list(dict.fromkeys(clean_caption(text) for test in tests for text in test.texts))


def measured_rows(tests: Sequence[Choice], texts: Sequence[str], gallery: Gallery) -> list[dict[str, Any]]:
    """Results by category, and of all tests if there are several categories.

    Args:
        tests: The tests.
        texts: Their `distinct_texts`.
        gallery: All images of the split by row, and these texts.

    Returns:
        Rows of `hard_negatives.json`: category, figure (see `choice_results`), number of tests, and value, low and high
        in percent by score and of the control, which is None if a test leaves no other image.
    """
    numbers = {text: number for number, text in enumerate(texts)}
    pairs = [(image, numbers[clean_caption(text)]) for test in tests for image in test.images for text in test.texts]
    device = gallery.image_of_text.device
    images, columns = torch.tensor(pairs, device=device).T
    scores = gallery.pair_scores(images, columns)
    blind = _blind(tests, gallery, columns)
    results = {name: _results(tests, of.double().cpu().numpy()) for name, of in (scores | blind).items()}
    clusters = np.array([test.images[0] for test in tests])
    rows = []
    for category, figure, members in _groups(tests, next(iter(results.values()))):
        found = {
            name: _interval([of[test][figure] for test in members], clusters[members]) for name, of in results.items()
        }
        control = found.pop(_BLIND, None)
        rows.append({"category": category, "figure": figure, "n": len(members), "control": control, "scores": found})
    return rows


def _blind(tests: Sequence[Choice], gallery: Gallery, columns: Int[Tensor, " P"]) -> dict[str, Float[Tensor, " P"]]:
    """Scores of the pairs with a blind picture in the place of the image; empty without other images."""
    most = max(len(test.images) for test in tests)
    if len(gallery.images.ids) <= most:
        return {}
    scores = torch.zeros(len(columns), dtype=torch.float64, device=columns.device)
    own = [test.images for test in tests for _ in range(len(test.images) * len(test.texts))]
    for num_images in {len(images) for images in own}:
        pairs = [pair for pair, images in enumerate(own) if len(images) == num_images]
        left_out = torch.tensor([own[pair] for pair in pairs], device=columns.device)
        scores[pairs] = blind_scores(gallery.images.embeds, left_out, gallery.texts.embeds[columns[pairs]])
    return {_BLIND: scores}


def _results(tests: Sequence[Choice], scores: Float[np.ndarray, " P"]) -> list[dict[str, bool]]:
    results, start = [], 0
    for test in tests:
        size = len(test.images) * len(test.texts)
        results.append(choice_results(scores[start : start + size].reshape(len(test.images), -1)))
        start += size
    return results


def _groups(
    tests: Sequence[Choice], results: Sequence[Mapping[str, bool]]
) -> Iterator[tuple[str, str, Int[np.ndarray, " n"]]]:
    """Category, figure and numbers of the tests of each row; the last rows are of all categories."""
    categories = list(dict.fromkeys(test.category for test in tests))
    for category in [*categories, *([None] if len(categories) > 1 else [])]:
        members = [number for number, test in enumerate(tests) if category in (None, test.category)]
        figures = dict.fromkeys(figure for number in members for figure in results[number])
        for figure in figures:
            yield category or ALL, figure, np.array([number for number in members if figure in results[number]])


def _interval(solved: Sequence[bool], images: Int[np.ndarray, " n"]) -> dict[str, float]:
    interval: Interval = mean_interval(100.0 * np.array(solved), images, bounds=(0.0, 100.0))
    return asdict(interval)
