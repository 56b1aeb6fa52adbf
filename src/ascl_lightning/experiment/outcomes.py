"""Results of the finished cells of a grid: means over seeds, and differences to the baselines."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ascl_lightning.data.variants.ladder import Variants
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.report_card.callback import VARIANTS
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
UNSEEN, CONTROL = "unseen", "control"
"""The figure of type I over the operations that a row was not trained on, and the same without the picture."""
_PERCENT = (0.0, 100.0)
_CARD_BOUNDS = {
    **dict.fromkeys(("I", UNSEEN, CONTROL), _PERCENT),
    "II": None,
    "III": None,
    FOREIGN: figure_bounds("rsum"),
}
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


@dataclass(frozen=True)
class _Measured:
    """Metrics of a cell, of the original images and in each draw.

    Args:
        drawn: All metrics but those that depend on what a row was trained on.
        type_i: The figure of type I by operation.
        control: The same without the picture.
        unseen: Operations of type I that the cell was not trained on.
    """

    drawn: Mapping[Key, Drawn]
    type_i: Mapping[str, Drawn] = field(default_factory=dict)
    control: Mapping[str, Drawn] = field(default_factory=dict)
    unseen: Sequence[str] = ()

    def over(self, operations: Collection[str]) -> dict[Key, Drawn]:
        """All metrics, `UNSEEN` and `CONTROL` over some operations of type I."""
        found = dict(self.drawn)
        for name, of_operations in ((UNSEEN, self.type_i), (CONTROL, self.control)):
            if operations and all(operation in of_operations for operation in operations):
                found[CARD_SCORE, name] = np.mean([of_operations[operation] for operation in operations], axis=0)
        return found


class Outcomes:
    """Reads the finished cells of an experiment.

    Args:
        cells: The cells of the experiment; unfinished ones are ignored.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._done = [cell for cell in cells if cell.task.is_done]
        self._redraws: Redraws | None = None
        self._first: tuple[Path, Queries] | None = None
        self._variants: tuple[Path, Variants] | None = None

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
        measured: dict[Row, dict[int, _Measured]] = {}
        for cell in cells:
            measured.setdefault(cell.row, {})[cell.seed] = self._measured(cell)
        found = []
        for row, cells_of_row in measured.items():
            means = _means(cells_of_row, cells_of_row, _unseen(cells_of_row))
            figures = {key: self._interval(key, values) for key, values in means.items()}
            baseline = next((of for other, of in measured.items() if other.name == row.baseline), {})
            shared = [seed for seed in cells_of_row if seed in baseline]
            differences = {}
            if shared:
                # type I is compared over the operations that neither was trained on
                unseen = [operation for operation in _unseen(cells_of_row) if operation in _unseen(baseline)]
                a, b = (_means(of, shared, unseen) for of in (baseline, cells_of_row))
                differences = {key: seeded_difference(a[key], b[key]) for key in b if key in a}
            found.append(RowOutcome(row, sorted(cells_of_row), figures, differences))
        return _corrected(found)

    def _measured(self, cell: Cell) -> _Measured:
        run = RunFiles(cell.task.folder / "validate" / "version_0")
        queries = {score: of for (score, protocol), of in run.queries.items() if protocol == OWN}
        # where the score that a model ranks by is the product of its embeddings, both are named `fused`
        queries.setdefault("independent", queries["fused"])
        redraws = self._draws_of(run.folder, queries["fused"])
        drawn: dict[Key, Drawn] = {}
        for score in (score for score in SCORES if score in queries):
            drawn |= {(score, name): values for name, values in drawn_recalls(queries[score], redraws).items()}
        if not (run.folder / CARD).is_file():
            return _Measured(drawn)
        self._check_variants(run.folder)
        card = read_card(run.folder)
        drawn |= {(CARD_SCORE, type_): of_score[CARD_SCORE] for type_, of_score in card.drawn().items()}
        foreign = card.drawn_rsum("append_others", 1.0, CARD_SCORE)
        drawn |= {} if foreign is None else {(CARD_SCORE, FOREIGN): foreign}
        operations = [ladder.operation for ladder in card.ladders if ladder.type == "I"]
        type_i = {operation: card.drawn_preference([operation], CARD_SCORE) for operation in operations}
        controls = {operation: card.drawn_control([operation]) for operation in operations}
        control = {operation: of for operation, of in controls.items() if of is not None}
        return _Measured(drawn, type_i, control, card.unseen_operations)

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

    def _check_variants(self, folder: Path) -> None:
        """Checks that the report cards of all cells have the same variants."""
        variants = Variants.load(folder / VARIANTS)
        if self._variants is None:
            self._variants = (folder, variants)
        first, expected = self._variants
        if (variants.captions, variants.ladders) != (expected.captions, expected.ladders):
            raise UserError(
                f"the report cards of '{first}' and '{folder}' have other variants: run all cells with WordNet or all "
                f"without, and with the same report_card.seed"
            )

    def _interval(self, key: Key, drawn: Drawn) -> Interval:
        assert self._first is not None
        _, name = key
        bounds = _CARD_BOUNDS[name] if name in _CARD_BOUNDS else figure_bounds(name)
        return interval_of_draws(float(drawn[0]), drawn[1:], bounds, len(self._first[1].image_to_text))


def _unseen(cells: Mapping[int, _Measured]) -> Sequence[str]:
    """Operations of type I that a row was not trained on, which its seeds share."""
    return next(iter(cells.values())).unseen


def _means(cells: Mapping[int, _Measured], seeds: Collection[int], operations: Collection[str]) -> dict[Key, Drawn]:
    """Means of the metrics that all seeds have, with `UNSEEN` and `CONTROL` over some operations."""
    chosen = [cells[seed].over(operations) for seed in sorted(seeds)]
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
