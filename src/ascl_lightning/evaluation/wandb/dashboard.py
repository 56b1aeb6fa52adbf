"""Logs tables, images and artifacts of a run to Weights & Biases; needs a `WandbLogger`."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from ascl_lightning.evaluation.run_files import CARD, RESULTS
from ascl_lightning.evaluation.wandb.panels import (
    Panel,
    attention_panel,
    comparisons_panel,
    first_batch_panel,
    found_panels,
)
from ascl_lightning.training.accessors import (
    callbacks_of,
    evaluated_split,
    retrieval_data,
    retrieval_module,
    run_folder,
)

_TEXT_ONLY = "text_only"
_EVALUATION_FILES = ("*.json", "*.parquet", "*.html")


class Dashboard(Callback):
    """Logs panels of a run to W&B, online or offline, on rank 0.

    - Axes: `val/...` against the epoch if each epoch ends with a validation; everything else against the step.
    - `best/...` in the summary: metrics, epoch and step of the best validation by the monitor of `ModelCheckpoint`.
    - `train/first_batch`: the first pairs with their T+ and T-.
    - At each validation: `val/found/text_to_image` and `val/found/image_to_text`, results of a few queries;
      `val/attention`, the attention of a few captions; `val/asymmetry/comparisons`, a table.
    - After training: the best checkpoint as an artifact with the alias `best`.
    - After `ascl validate` and `ascl test`: tables of metrics, the HTML report, and the run's files as an artifact.

    Scalars such as losses are logged by the module, and the configuration by `LogConfig`. `data_fingerprint` in the
    configuration identifies the images and captions of each split.
    """

    def __init__(self) -> None:
        self._best = -math.inf
        self._validates_by_epoch = False
        self._against_epoch: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs data fingerprints and the first batch."""
        # determined now, because `LastValidation` may add a validation later
        at_end = trainer.val_check_batch == trainer.num_training_batches
        self._validates_by_epoch = trainer.check_val_every_n_epoch is not None and at_end
        run = _run(trainer)
        if run is not None:
            _send_fingerprints(trainer, run, ("train", "val"))
            if trainer.global_step == 0:
                _log(trainer, run, "train", [first_batch_panel(retrieval_data(trainer))])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs panels before the module discards the encoded split."""
        if _logger(trainer) is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        module, data = retrieval_module(pl_module), retrieval_data(trainer)
        gallery, view = module.evaluation.gallery(), data.view("val")  # a collective operation of all ranks
        run = _run(trainer)
        if run is None:
            return
        with torch.no_grad():
            panels = [*found_panels(gallery, view), attention_panel(module.model, gallery, view, data)]
        _log(trainer, run, "val", panels)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs comparisons, and updates the axes of metrics and the best validation."""
        run = _run(trainer)
        if run is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            _log(trainer, run, "val", [comparisons_panel(retrieval_module(pl_module).findings.comparisons)])
            metrics = {
                name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
            }
            if self._validates_by_epoch:
                for name in sorted(metrics.keys() - self._against_epoch):
                    # by name, because W&B picks any of overlapping patterns such as Lightning's `*`
                    run.define_metric(name, step_metric="epoch")
                self._against_epoch |= metrics.keys()
            self._keep_best(trainer, run, metrics)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Uploads the best checkpoint with its metrics."""
        run = _run(trainer)
        best = Path(getattr(trainer.checkpoint_callback, "best_model_path", ""))
        if run is None or not best.exists() or best == Path():
            return
        import wandb

        summary = {name: run.summary[name] for name in run.summary.keys() if name.startswith("best/")}  # noqa: SIM118
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=summary)
        if best.is_dir():
            artifact.add_dir(str(best), name=best.name, policy="immutable", skip_cache=True)
        else:
            # the file is final, so it need not be copied
            artifact.add_file(str(best), name=best.name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=["best"])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Logs the results of an evaluation after all callbacks have written their files."""
        run, split = _run(trainer), evaluated_split(trainer)
        if run is None or split is None:
            return
        folder = run_folder(trainer)
        _send_fingerprints(trainer, run, [split])
        if (folder / RESULTS).is_file():
            results = _read(folder / RESULTS)
            # mark invalid results
            leaks = results["leaks"]
            said = "not checked" if leaks is None else ", ".join(leak["kind"] for leak in leaks) or "none found"
            run.summary.update({f"{split}/leaks": said})
            _log(trainer, run, split, [figures_panel(results)])
        if (folder / CARD).is_file():
            _log(trainer, run, split, [report_card_panel(_read(folder / CARD))])

    def send_page(self, trainer: Trainer, page: Path) -> None:
        """Logs the HTML report of an evaluation, and uploads its files.

        Args:
            trainer: Trainer of the finished evaluation.
            page: The report in the run's folder.
        """
        run = _run(trainer)
        if run is None:
            return
        import wandb

        artifact = wandb.Artifact(f"evaluation-{run.id}", type="evaluation")
        for path in sorted(path for pattern in _EVALUATION_FILES for path in page.parent.glob(pattern)):
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)
        run.log({f"{evaluated_split(trainer)}/{page.stem}": wandb.Html(page.read_text(encoding="utf-8"))})

    def state_dict(self) -> dict[str, Any]:
        """Saves the best metric value for a resumed run."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best metric value."""
        self._best = state_dict["best"]

    def _keep_best(self, trainer: Trainer, run: Any, metrics: dict[str, float]) -> None:
        watched = next(iter(callbacks_of(trainer, ModelCheckpoint)), None)
        value = None if watched is None else metrics.get(str(watched.monitor))
        if watched is None or value is None:
            return
        rating = value if watched.mode == "max" else -value
        if rating > self._best:
            self._best = rating
            best = {f"best/{name.removeprefix('val/')}": value for name, value in metrics.items()}
            run.summary.update(best | {"best/epoch": trainer.current_epoch, "best/step": trainer.global_step})


def figures_panel(results: dict[str, Any]) -> Panel:
    """All metrics of an evaluation with intervals, one row each.

    Args:
        results: Content of `results.json`.
    """
    groups = {"own": results["scores"], **results["protocols"]}
    rows = [
        [protocol, score, figure, value["value"], value["low"], value["high"]]
        for protocol, scores in groups.items()
        for score, figures in scores.items()
        for figure, value in figures.items()
    ]
    return Panel("figures", ("protocol", "score", "figure", "value", "low", "high"), rows)


def report_card_panel(card: dict[str, Any]) -> Panel:
    """The summary value of each asymmetry type, and how often captions score above their variants, one row each.

    The text-only control of a figure is in rows with the score `text_only`. `trained_on` is None for means.

    Args:
        card: Content of `report_card.json`.
    """
    rows: list[list[Any]] = []
    for kind, of_type in card["types"].items():
        unseen = of_type.get("unseen")
        for name, of in ((f"type {kind}", of_type), *([(f"type {kind}, unseen", unseen)] if unseen else [])):
            values = {**of["value"], _TEXT_ONLY: of.get("control")}
            rows += [_card_row(name, None, score, figure) for score, figure in values.items() if figure is not None]
    for found in card["discrimination"]:
        name, trained_on = f"T before {found['operation']}", found["trained_on"]
        rows.append(_card_row(name, trained_on, found["score"], found))
        if found["control"] is not None and found["score"] == card["scores"][0]:
            rows.append(_card_row(name, trained_on, _TEXT_ONLY, found["control"]))
    return Panel("report_card", ("figure", "trained_on", "score", "value", "low", "high"), rows)


def _card_row(name: str, trained_on: bool | None, score: str, figure: Mapping[str, Any]) -> list[Any]:
    return [name, trained_on, score, figure["value"], figure["low"], figure["high"]]


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _logger(trainer: Trainer) -> WandbLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, WandbLogger)), None)


def _run(trainer: Trainer) -> Any:
    """The W&B run on rank 0; None on other ranks and without a `WandbLogger`."""
    logger = _logger(trainer)
    return logger.experiment if logger is not None and trainer.is_global_zero else None


def _send_fingerprints(trainer: Trainer, run: Any, splits: Sequence[str]) -> None:
    """Adds the fingerprints of splits to the configuration."""
    data = retrieval_data(trainer)
    prints = {split: data.digest(split).fingerprint for split in splits}
    run.config.update({"data_fingerprint": prints}, allow_val_change=True)


def _log(trainer: Trainer, run: Any, stage: str, panels: Iterable[Panel]) -> None:
    """Logs panels with rows, at the step and epoch of the scalars."""
    tables = {f"{stage}/{panel.name}": _table(panel) for panel in panels if panel.rows}
    if not tables:
        return
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    run.log({**tables, "trainer/global_step": step, "epoch": trainer.current_epoch})


def _table(panel: Panel) -> Any:
    import wandb

    rows = [[wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row] for row in panel.rows]
    return wandb.Table(columns=list(panel.columns), data=rows)
