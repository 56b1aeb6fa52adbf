"""Results of `ascl validate` and `ascl test`: metrics of all scores with confidence intervals, as a table and files.

`results.json` has the metrics and their provenance, `test_metrics.json` or `validate_metrics.json` the logged metrics,
and `queries.parquet` the results of single queries.
"""

import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from rich.console import Console

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import Split
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.run_files import METRICS_OF_SPLIT, QUERIES, RESULTS
from ascl_lightning.evaluation.side_by_side import fold_queries, protocol_queries, queries_by_score
from ascl_lightning.evaluation.tables import interval_table
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.metrics.intervals import Interval, figure_intervals, fold_intervals
from ascl_lightning.metrics.query_results import OWN, Queries, write_queries
from ascl_lightning.runtime.config_files import CONFIG
from ascl_lightning.runtime.files import write_file
from ascl_lightning.training.accessors import (
    evaluated_split,
    is_fast_dev_run,
    ranked_split,
    retrieval_data,
    retrieval_module,
    run_folder,
)
from ascl_lightning.training.config_changes import changes_of_evaluation, config_behind, read_changes
from ascl_lightning.training.findings import LeakCheck, QueryBank

_Figures = dict[str, Interval]


@dataclass
class _Measured:
    """Results of one evaluation."""

    queries: dict[tuple[str, str], Queries]
    """Queries by score and protocol."""
    scores: dict[str, _Figures]
    protocols: dict[str, dict[str, _Figures]]
    seconds: dict[str, float]
    ceiling: dict[str, float] = field(default_factory=dict)


class EvaluationResults(Callback):
    """Evaluates a split with all scores of the model, in `ascl validate` and `ascl test` but not during training.

    Each rank evaluates the whole split; rank 0 writes the files. A benchmark of hard negatives is not ranked: its
    `results.json` has no scores.
    """

    def __init__(self) -> None:
        self._measured: _Measured | None = None

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the results before the module discards the encoded split."""
        split = evaluated_split(trainer)
        if split is None:
            return
        if ranked_split(trainer) is None:
            self._measured = _Measured({}, {}, {}, {})
            return
        module, data = retrieval_module(pl_module), retrieval_data(trainer)
        ceiling = data.ceiling(split)
        module.log_dict({f"{split}/ceiling/{name}": value for name, value in ceiling.items()}, rank_zero_only=True)
        gallery = module.evaluation.gallery()
        bank = module.findings.query_bank
        self._measured = _measured(gallery, data.view(split).split, module.evaluation.fold_size, bank)
        self._measured.ceiling = ceiling

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and prints the results on rank 0."""
        split = evaluated_split(trainer)
        if self._measured is None or split is None or is_fast_dev_run(trainer):
            return
        folder, measured = run_folder(trainer), self._measured
        self._measured = None
        if not trainer.is_global_zero:
            return
        results = _results(trainer, measured, split, folder)
        write_file(folder / RESULTS, json.dumps(results, indent=2) + "\n")
        write_file(folder / METRICS_OF_SPLIT[split], json.dumps(results["metrics"], indent=2) + "\n")
        if not measured.scores:
            return
        write_queries(folder / QUERIES, measured.queries)
        console = Console()
        title = "Validation split" if split == "val" else "Test split"
        if results["leaks"]:
            title += " (invalid: data leak)"
        console.print(interval_table(title, measured.scores, measured.ceiling))
        for protocol, scores in measured.protocols.items():
            console.print(interval_table(f"{title}, {protocol}", scores, {}))
        console.print(f"Metrics with 95% confidence intervals over images: {folder / RESULTS}", soft_wrap=True)

    on_validation_epoch_end = on_test_epoch_end
    on_validation_end = on_test_end


def _measured(gallery: Gallery, split: Split, fold_size: int | None, bank: QueryBank | None) -> _Measured:
    gallery.matrices()
    start = time.perf_counter()
    ids = [split.image_ids[row] for row in gallery.images.ids.tolist()]
    queries = {(score, OWN): of_score for score, of_score in queries_by_score(gallery, ids, bank).items()}
    queries |= _other_positives(gallery, ids, split)
    ranked = time.perf_counter()
    scores: dict[str, dict[str, _Figures]] = {}
    for (score, protocol), of_score in queries.items():
        scores.setdefault(protocol, {})[score] = figure_intervals(of_score)
    folds = fold_queries(gallery, fold_size, ids)
    if folds:
        scores["folds"] = {score: fold_intervals(of_score) for score, of_score in folds.items()}
    seconds = {
        "scoring": gallery.scoring_seconds,
        "ranking": ranked - start,
        "intervals": time.perf_counter() - ranked,
    }
    return _Measured(queries, scores.pop(OWN), scores, seconds)


def _other_positives(gallery: Gallery, ids: list[str], split: Split) -> dict[tuple[str, str], Queries]:
    caption_ids = None if split.caption_ids is None else split.caption_ids[gallery.texts.ids.cpu().numpy()]
    try:
        return protocol_queries(gallery, ids, caption_ids)
    except UserError as error:
        rank_zero_warn(f"protocol skipped: {error}")
        return {}


def _results(trainer: Trainer, measured: _Measured, split: str, folder: Path) -> dict[str, Any]:
    """Content of `results.json`."""
    data, checkpoint = retrieval_data(trainer), trainer.ckpt_path
    num_images, num_texts = data.size(split)
    config = folder / CONFIG
    leaks = retrieval_module(trainer.lightning_module).findings.leaks
    checked = LeakCheck() if leaks is None else leaks
    return {
        "split": split,
        "num_images": num_images,
        "num_texts": num_texts,
        "truncated_texts": _num_truncated(data, split),
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "training": _training_folder(checkpoint),
        "config": str(config) if config.is_file() else None,
        "config_changes": _config_changes(checkpoint, config),
        "data": data.digest(split).fingerprint,
        "leaks": None if leaks is None else [asdict(leak) for leak in checked.found],
        "unchecked": checked.unchecked,
        "notes": checked.notes,
        "command": shlex.join(["ascl", *sys.argv[1:]]),
        "scores": _plain(measured.scores),
        "protocols": {protocol: _plain(scores) for protocol, scores in measured.protocols.items()},
        "ceiling": measured.ceiling,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "seconds": measured.seconds,
    }


def _plain(scores: dict[str, _Figures]) -> dict[str, dict[str, dict[str, float]]]:
    return {score: {name: asdict(figure) for name, figure in figures.items()} for score, figures in scores.items()}


def _config_changes(checkpoint: Any, config: Path) -> dict[str, Any] | None:
    """Settings that this evaluation changed, and settings that a resumed training changed."""
    before = config_behind(checkpoint)
    if before is None or not config.is_file():
        return None
    changes = changes_of_evaluation(before, yaml.safe_load(config.read_text(encoding="utf-8")))
    return {"evaluation": [asdict(change) for change in changes], "training": read_changes(before.parent)}


def _training_folder(checkpoint: Any) -> str | None:
    """Folder of the run that contains a checkpoint or exported weights; None if they are elsewhere."""
    if checkpoint is None:
        return None
    run = Path(checkpoint).absolute().parent.parent
    return str(run) if (run / CONFIG).is_file() else None


def _num_truncated(data: RetrievalDataModule, split: str) -> int:
    """Number of captions that the tokenizer truncates, even if their features are stored."""
    tokenizer = data.tokenizer()
    return sum(tokenizer(list(map(clean_caption, texts)))[1] for texts in data.view(split).split.captions if texts)
