"""The files of a run of `ascl test` or `ascl validate`, as far as they are there."""

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
"""Flat files of what loggers get, such as `test/rsum`, for scripts."""
CARD = "report_card.json"
EXAMPLES = "examples.json"
ATTENTION = "attention.json"
HISTOGRAMS = "histograms.json"
LATENCY = "latency.json"
QUERIES = "queries.parquet"
WORST = 10
"""Queries of each direction that the page lists as the worst."""
METRICS = "metrics.csv"


class RunFiles:
    """Reads the folder of a run, each file once.

    Args:
        folder: The run's folder.

    Raises:
        UserError: If it is no folder of such a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise UserError(f"there is no folder '{folder}': give the folder of a run, such as runs/test/version_0")
        if not (folder / RESULTS).is_file():
            raise UserError(
                f"'{folder}' has no {RESULTS}, which `ascl test` and `ascl validate` write: give the folder of a "
                f"finished run of one of them"
            )
        self._read: dict[str, Any] = {}

    @property
    def results(self) -> dict[str, Any]:
        """What `results.json` holds."""
        results: dict[str, Any] = self.json(RESULTS)
        return results

    def json(self, name: str) -> Any:
        """What a JSON file holds; None where it is not there.

        Raises:
            UserError: If it cannot be read.
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
        """What the run's `config.yaml` holds; nothing where it is not there, or holds something else.

        Raises:
            UserError: If it cannot be read.
        """
        path = self.folder / CONFIG
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
        return content if isinstance(content, dict) else {}

    @cached_property
    def queries(self) -> dict[tuple[str, str], Queries]:
        """What `queries.parquet` holds, by score and protocol; nothing where it is not there.

        Raises:
            UserError: If it cannot be read.
        """
        path = self.folder / QUERIES
        return read_queries(path) if path.is_file() else {}

    @property
    def training(self) -> Path | None:
        """The folder of the training run, where it is known and still there."""
        folder = self.results.get("training")
        return Path(folder) if folder and (Path(folder) / METRICS).is_file() else None

    @cached_property
    def training_metrics(self) -> list[dict[str, str]]:
        """Rows of the training run's `metrics.csv`; none where it is not there."""
        if self.training is None:
            return []
        with (self.training / METRICS).open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))

    def picture(self, path: str | None) -> str | None:
        """A picture of the folder as a `data:` address; None where there is none."""
        if path is None or not (self.folder / path).is_file():
            return None
        # torch comes with it, and commands that only read figures start at once without
        from ascl_lightning.evaluation.page.pictures import data_address

        return data_address((self.folder / path).read_bytes(), "webp")

    def every_file(self) -> list[tuple[str, int]]:
        """Paths in the folder and their sizes in bytes, pictures left out."""
        files = sorted(path for path in self.folder.iterdir() if path.is_file() and path.suffix != ".html")
        return [(path.name, path.stat().st_size) for path in files]
