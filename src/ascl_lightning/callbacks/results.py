"""What `ascl test` leaves behind: a table on stdout and `test_metrics.json` in the run's folder."""

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Column, Table

from ascl_lightning.callbacks.parts import is_trial, retrieval_data

COLUMNS = ("R@1", "R@5", "R@10", "median rank", "mean rank", "rSum")
_KEYS = ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank", "mean_rank")
_DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}


def run_folder(trainer: Trainer) -> Path:
    """The folder of this run: the first logger's, or the trainer's root without one; all ranks ask together."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def recall_rows(metrics: dict[str, float]) -> list[tuple[str, list[str]]]:
    """Recalls and ranks in both directions, as rows of a table under `COLUMNS`.

    Args:
        metrics: Of `retrieval_metrics`; groups of the same metrics under a prefix of their own (`ceiling/`, `folds/`)
            become rows of their own. A group may lack the ranks.

    Returns:
        A label and its cells, for each group and direction.

    Example:
        >>> recall_rows({"rsum": 9.0, "image_to_text/recall_at_1": 4.0, "text_to_image/recall_at_1": 5.0})
        [('image to text', ['4.0', '', '', '', '', '']), ('text to image', ['5.0', '', '', '', '', '9.0'])]
    """
    rows = []
    for group in sorted({name.removesuffix("rsum") for name in metrics if name.endswith("rsum")}):
        for direction, words in _DIRECTIONS.items():
            values = [metrics.get(f"{group}{direction}/{key}") for key in _KEYS]
            values.append(metrics[f"{group}rsum"] if direction == "text_to_image" else None)
            label = f"{group.rstrip('/')}: {words}" if group else words
            rows.append((label, ["" if value is None else f"{value:.1f}" for value in values]))
    return rows


class TestResults(Callback):
    """Writes and prints the test metrics, beside what a scorer that knows the truth would reach."""

    __test__ = False  # pytest takes a class called Test... for tests

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the ceiling, where the data's source knows the truth."""
        ceiling = retrieval_data(trainer).ceiling("test")
        pl_module.log_dict({f"test/ceiling/{name}": value for name, value in ceiling.items()}, rank_zero_only=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank 0 writes; the keys are those of the logger."""
        if is_trial(trainer):
            return
        path = run_folder(trainer) / "test_metrics.json"
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        path.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
        console = Console()
        table = Table("", *(Column(name, justify="right") for name in COLUMNS), title="Test")
        for label, cells in recall_rows({name.removeprefix("test/"): value for name, value in metrics.items()}):
            table.add_row(label, *cells)
        console.print(table)
        console.print(f"Metrics: {path}", soft_wrap=True)
