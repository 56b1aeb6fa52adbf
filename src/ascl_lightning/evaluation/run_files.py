"""Reads the files of a run of `ascl test` or `ascl validate`; all but `results.json` are optional."""

import csv
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ascl_lightning.errors import UserError
from ascl_lightning.metrics.query_results import Queries, read_queries
from ascl_lightning.runtime.config_files import CONFIG

RESULTS = "results.json"
METRICS_OF_SPLIT = {"val": "validate_metrics.json", "test": "test_metrics.json"}
"""Files with the logged metrics as flat keys, such as `test/rsum`, for scripts."""
CARD = "report_card.json"
HARD_NEGATIVES = "hard_negatives.json"
EXAMPLES = "examples.json"
ATTENTION = "attention.json"
HISTOGRAMS = "histograms.json"
LATENCY = "latency.json"
QUERIES = "queries.parquet"
WORST = 10
"""Number of worst queries per direction in the HTML report."""
METRICS = "metrics.csv"


class RunFiles:
    """Reads the files in a run's folder, each file once.

    Args:
        folder: Folder of the run.

    Raises:
        UserError: If the folder is not that of a finished test or validation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise UserError(f"there is no folder '{folder}': give the folder of a run, such as runs/test/version_0")
        if not (folder / RESULTS).is_file():
            raise UserError(
                f"'{folder}' has no {RESULTS}: give the folder of a finished run of `ascl test` or `ascl validate`"
            )
        self._read: dict[str, Any] = {}

    @property
    def results(self) -> dict[str, Any]:
        """Content of `results.json`."""
        results: dict[str, Any] = self.json(RESULTS)
        return results

    def json(self, name: str) -> Any:
        """Content of a JSON file. None if it does not exist.

        Raises:
            UserError: If the file cannot be read.
        """
        path = self.folder / name
        if name not in self._read and path.is_file():
            try:
                self._read[name] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: cannot be read ({error}); run the test again") from error
        return self._read.get(name)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of the run's `config.yaml`. Empty if it does not exist or is not a mapping.

        Raises:
            UserError: If the file cannot be read.
        """
        path = self.folder / CONFIG
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
        return content if isinstance(content, dict) else {}

    @cached_property
    def queries(self) -> dict[tuple[str, str], Queries]:
        """Content of `queries.parquet`, by score and protocol. Empty if it does not exist.

        Raises:
            UserError: If the file cannot be read.
        """
        path = self.folder / QUERIES
        return read_queries(path) if path.is_file() else {}

    @property
    def training(self) -> Path | None:
        """Folder of the training run. None if it is unknown or has no metrics."""
        folder = self.results.get("training")
        return Path(folder) if folder and (Path(folder) / METRICS).is_file() else None

    @cached_property
    def training_metrics(self) -> list[dict[str, str]]:
        """Rows of the training run's `metrics.csv`. Empty if it does not exist."""
        if self.training is None:
            return []
        with (self.training / METRICS).open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))

    def picture(self, path: str | None) -> str | None:
        """An image file as a `data:` URL. None if it does not exist."""
        if path is None or not (self.folder / path).is_file():
            return None
        # imports torch, which commands that only read metrics do not need
        from ascl_lightning.evaluation.page.pictures import data_address

        return data_address((self.folder / path).read_bytes(), "webp")

    def every_file(self) -> list[tuple[str, int]]:
        """Names and sizes in bytes of the files in the folder, without images and HTML."""
        files = sorted(path for path in self.folder.iterdir() if path.is_file() and path.suffix != ".html")
        return [(path.name, path.stat().st_size) for path in files]
