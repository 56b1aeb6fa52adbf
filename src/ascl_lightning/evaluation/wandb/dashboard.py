"""What Weights & Biases shows of a run beside its scalars. Nothing here happens without a `WandbLogger`."""

import json
import math
from collections.abc import Iterable, Sequence
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

_EVALUATION_FILES = ("*.json", "*.parquet", "*.html")


class Dashboard(Callback):
    """Panels of a run in W&B, online or recorded offline; rank 0 logs.

    - Axes: `val/...` against the epoch where each ends with a validation; everything else against the step.
    - `best/...` in the summary: the metrics of the best validation, by what `ModelCheckpoint` watches, with its `epoch`
      and `step`.
    - `train/first_batch`: the first pairs with their T+ and T-.
    - At each validation `val/found/text_to_image` and `val/found/image_to_text`, what a few queries find;
      `val/attention`, the words of a few captions over their pictures; `val/asymmetry/comparisons`, as a table.
    - After training the best checkpoint, as an artifact with the alias `best`. After `ascl validate` and `ascl test`
      the figures as tables and the run's page; its files as an artifact.

    Losses, gradients' norm, temperature, rates and speed are scalars that every logger gets; the machine's load is
    W&B's own to measure. `LogConfig` sends the configuration; `data_fingerprint` beside it tells which images and
    captions each split had.
    """

    def __init__(self) -> None:
        self._best = -math.inf
        self._validates_by_epoch = False
        self._against_epoch: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows what training begins with."""
        # asked now, as the validation after the last step is not like the others
        at_end = trainer.val_check_batch == trainer.num_training_batches
        self._validates_by_epoch = trainer.check_val_every_n_epoch is not None and at_end
        run = _run(trainer)
        if run is not None:
            _send_fingerprints(trainer, run, ("train", "val"))
            if trainer.global_step == 0:
                _log(trainer, run, "train", [first_batch_panel(retrieval_data(trainer))])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at what was encoded, before the module forgets it."""
        if _logger(trainer) is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        module, data = retrieval_module(pl_module), retrieval_data(trainer)
        gallery, view = module.evaluation.gallery(), data.view("val")  # all ranks gather it
        run = _run(trainer)
        if run is None:
            return
        with torch.no_grad():
            panels = [*found_panels(gallery, view), attention_panel(module.model, gallery, view, data)]
        _log(trainer, run, "val", panels)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the best validation, and against what metrics are drawn."""
        run = _run(trainer)
        if run is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            _log(trainer, run, "val", [comparisons_panel(retrieval_module(pl_module).findings.comparisons)])
            metrics = {
                name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
            }
            if self._validates_by_epoch:
                for name in sorted(metrics.keys() - self._against_epoch):
                    # by name: of patterns that overlap, such as Lightning's own `*`, W&B takes any
                    run.define_metric(name, step_metric="epoch")
                self._against_epoch |= metrics.keys()
            self._keep_best(trainer, run, metrics)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands the best checkpoint on, with the metrics of its weights."""
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
            # nobody changes the file from here on: no copy of it is needed
            artifact.add_file(str(best), name=best.name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=["best"])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shows the figures of an evaluation, once every callback has left its files."""
        run, split = _run(trainer), evaluated_split(trainer)
        if run is None or split is None:
            return
        folder = run_folder(trainer)
        _send_fingerprints(trainer, run, [split])
        if (folder / RESULTS).is_file():
            results = _read(folder / RESULTS)
            # what is of no value as a test says so beside its figures
            leaks = results["leaks"]
            said = "not checked" if leaks is None else ", ".join(leak["kind"] for leak in leaks) or "none found"
            run.summary.update({f"{split}/leaks": said})
            _log(trainer, run, split, [figures_panel(results)])
        if (folder / CARD).is_file():
            _log(trainer, run, split, [report_card_panel(_read(folder / CARD))])

    def send_page(self, trainer: Trainer, page: Path) -> None:
        """Shows the page of an evaluation, and hands on the files that it was made of.

        Args:
            trainer: Whose evaluation has ended.
            page: Lies in the run's folder.
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
        """The best so far, for a resumed run."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What a better validation must surpass."""
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
    """Every figure of an evaluation with its interval, a row each.

    Args:
        results: What `results.json` holds.
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
    """The figure of each type of asymmetry, and how often captions beat what was made of them, a row each.

    Args:
        card: What `report_card.json` holds.
    """
    rows = [
        [f"type {kind}", score, figure["value"], figure["low"], figure["high"]]
        for kind, of_type in card["types"].items()
        for score, figure in of_type["value"].items()
    ]
    rows += [
        [f"T before {found['operation']}", found["score"], found["value"], found["low"], found["high"]]
        for found in card["discrimination"]
    ]
    return Panel("report_card", ("figure", "score", "value", "low", "high"), rows)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _logger(trainer: Trainer) -> WandbLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, WandbLogger)), None)


def _run(trainer: Trainer) -> Any:
    """The run of W&B, which rank 0 alone has; None without."""
    logger = _logger(trainer)
    return logger.experiment if logger is not None and trainer.is_global_zero else None


def _send_fingerprints(trainer: Trainer, run: Any, splits: Sequence[str]) -> None:
    """Tells by the configuration which images and captions were used."""
    data = retrieval_data(trainer)
    prints = {split: data.digest(split).fingerprint for split in splits}
    run.config.update({"data_fingerprint": prints}, allow_val_change=True)


def _log(trainer: Trainer, run: Any, stage: str, panels: Iterable[Panel]) -> None:
    """Logs panels that have rows, at the step and the epoch that scalars are logged with."""
    tables = {f"{stage}/{panel.name}": _table(panel) for panel in panels if panel.rows}
    if not tables:
        return
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    run.log({**tables, "trainer/global_step": step, "epoch": trainer.current_epoch})


def _table(panel: Panel) -> Any:
    import wandb

    rows = [[wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row] for row in panel.rows]
    return wandb.Table(columns=list(panel.columns), data=rows)
