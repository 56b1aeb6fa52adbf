"""Results of the finished cells of a grid: means over seeds, and differences to the baselines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.report_card.stored_card import read_card
from ascl_lightning.evaluation.run_files import CARD, RunFiles
from ascl_lightning.experiment.grid import Cell, Group, Row
from ascl_lightning.metrics.intervals import (
    Difference,
    Drawn,
    Interval,
    Redraws,
    figure_bounds,
    holm,
    interval_of_draws,
)
from ascl_lightning.metrics.query_results import OWN, Queries
from ascl_lightning.metrics.seed_draws import drawn_recalls, mean_over_seeds, seeded_difference

SCORES = ("fused", "independent", "local", "reranked", "standardized", "hubness_corrected")
"""Scores of the document, if validation gives them."""
CARD_SCORE = "fused"
FOREIGN = "foreign"
"""Sum of recalls after the caption of another image was appended to each caption."""
_PERCENT = (0.0, 100.0)
_CARD_BOUNDS = {"I": _PERCENT, "II": None, "III": None, FOREIGN: figure_bounds("rsum")}
_SAME = ("query", "image", "image_id")

Key = tuple[str, str]
"""A score and a metric of it: of `drawn_recalls`, or (`CARD_SCORE`, a figure of the report card)."""


@dataclass(frozen=True)
class RowOutcome:
    """Results of a row of a group.

    Args:
        row: The row.
        seeds: Seeds that are done.
        figures: Metrics with intervals over images and seeds.
        differences: Differences to the baseline of the group, over the seeds that both have; empty without a baseline.
    """

    row: Row
    seeds: Sequence[int]
    figures: Mapping[Key, Interval]
    differences: Mapping[Key, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupOutcome:
    """Results of a group: its rows with at least one finished cell, in the order of the grid."""

    group: Group
    rows: Sequence[RowOutcome]


class Outcomes:
    """Reads the finished cells of an experiment.

    Args:
        cells: The cells of the experiment; unfinished ones are ignored.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._done = [cell for cell in cells if cell.task.is_done]
        self._redraws: Redraws | None = None
        self._first: tuple[Path, Queries] | None = None

    def machines(self) -> dict[str, int]:
        """Number of cells by machine."""
        return dict(Counter(str(cell.task.record["machine"]) for cell in self._done))

    def groups(self) -> list[GroupOutcome]:
        """The results of each group.

        Raises:
            UserError: If a file cannot be read, or cells were validated on different data.
        """
        return [
            GroupOutcome(group, self._rows([cell for cell in self._done if cell.group is group]))
            for group in dict.fromkeys(cell.group for cell in self._done)
        ]

    def _rows(self, cells: Sequence[Cell]) -> list[RowOutcome]:
        """The results of one group; p-values of a metric are corrected for the number of rows with a baseline."""
        drawn: dict[Row, dict[int, dict[Key, Drawn]]] = {}
        for cell in cells:
            drawn.setdefault(cell.row, {})[cell.seed] = self._drawn(cell)
        found = []
        for row, of_seeds in drawn.items():
            figures = {key: self._interval(key, values) for key, values in _means(of_seeds, list(of_seeds)).items()}
            baseline = next((of for other, of in drawn.items() if other.name == row.baseline), {})
            shared = [seed for seed in of_seeds if seed in baseline]
            differences = {}
            if shared:
                a, b = _means(baseline, shared), _means(of_seeds, shared)
                differences = {key: seeded_difference(a[key], b[key]) for key in b if key in a}
            found.append(RowOutcome(row, sorted(of_seeds), figures, differences))
        return _corrected(found)

    def _drawn(self, cell: Cell) -> dict[Key, Drawn]:
        """All metrics of a cell: of the original images, then in each draw."""
        run = RunFiles(cell.task.folder / "validate" / "version_0")
        queries = {score: of for (score, protocol), of in run.queries.items() if protocol == OWN}
        # where the score that a model ranks by is the product of its embeddings, both are named `fused`
        queries.setdefault("independent", queries["fused"])
        redraws = self._draws_of(run.folder, queries["fused"])
        drawn: dict[Key, Drawn] = {}
        for score in (score for score in SCORES if score in queries):
            drawn |= {(score, name): values for name, values in drawn_recalls(queries[score], redraws).items()}
        if (run.folder / CARD).is_file():
            card = read_card(run.folder)
            drawn |= {(CARD_SCORE, type_): of_score[CARD_SCORE] for type_, of_score in card.drawn().items()}
            foreign = card.drawn_rsum("append_others", 1.0, CARD_SCORE)
            drawn |= {} if foreign is None else {(CARD_SCORE, FOREIGN): foreign}
        return drawn

    def _draws_of(self, folder: Path, queries: Queries) -> Redraws:
        """The draws for all cells, whose queries must be the same."""
        if self._first is None or self._redraws is None:
            self._first = (folder, queries)
            images = {number for rows in queries.directions().values() for number in rows.image.tolist()}
            self._redraws = Redraws(len(images))
        first, expected = self._first
        for name, rows in queries.directions().items():
            if not all(np.array_equal(getattr(rows, of), getattr(expected.directions()[name], of)) for of in _SAME):
                raise UserError(f"'{first}' and '{folder}' were validated on different data: give another --out")
        return self._redraws

    def _interval(self, key: Key, drawn: Drawn) -> Interval:
        assert self._first is not None
        _, name = key
        bounds = _CARD_BOUNDS[name] if name in _CARD_BOUNDS else figure_bounds(name)
        return interval_of_draws(float(drawn[0]), drawn[1:], bounds, len(self._first[1].image_to_text))


def _means(of_seeds: Mapping[int, Mapping[Key, Drawn]], seeds: Sequence[int]) -> dict[Key, Drawn]:
    """Means of the metrics that all seeds have."""
    chosen = [of_seeds[seed] for seed in sorted(seeds)]
    return {key: mean_over_seeds([of[key] for of in chosen]) for key in chosen[0] if all(key in of for of in chosen)}


def _corrected(rows: Sequence[RowOutcome]) -> list[RowOutcome]:
    """Holm's correction of each metric over the rows that have a difference."""
    found = list(rows)
    for key in dict.fromkeys(key for row in rows for key in row.differences):
        numbers = [number for number, row in enumerate(found) if key in row.differences]
        adjusted = holm({str(number): found[number].differences[key].p_value for number in numbers})
        for number in numbers:
            row = found[number]
            difference = replace(row.differences[key], holm_p_value=adjusted[str(number)])
            found[number] = replace(row, differences={**row.differences, key: difference})
    return found
