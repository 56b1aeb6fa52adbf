"""The document of an experiment: how it was run, means over seeds, and differences to the baselines."""

from collections.abc import Callable, Iterator, Sequence

from ascl_lightning.experiment.grid import Cell, Grid, Group, Row, flags_in_words
from ascl_lightning.experiment.outcomes import (
    CARD_SCORE,
    CONTROL,
    FOREIGN,
    SCORES,
    UNSEEN,
    GroupOutcome,
    Key,
    Outcomes,
    RowOutcome,
)
from ascl_lightning.metrics.intervals import Difference, Interval
from ascl_lightning.metrics.labels import RECALLS, in_words, label
from ascl_lightning.metrics.query_results import DIRECTIONS

_RECALLS: list[Key] = [("fused", f"{direction}/{name}") for direction in DIRECTIONS for name in RECALLS]
_CARD: dict[Key, str] = {
    (CARD_SCORE, "I"): "I: T above T-",
    (CARD_SCORE, UNSEEN): "I: not trained on",
    (CARD_SCORE, CONTROL): "the same without the picture",
    (CARD_SCORE, "II"): "II: kept",
    (CARD_SCORE, FOREIGN): "II: rSum, one caption of another image appended",
    (CARD_SCORE, "III"): "III: kept",
}
_READING = """\
- A figure is the mean over seeds with its 95% interval. The bootstrap draws images and, independently, seeds; with one
  seed it draws images alone. Differences are paired: both rows have the same images and seeds. `p` is two-sided and
  from the same draws; `Holm` corrects it for the number of compared rows in the table.
- Checkpoints are selected on the split that is reported, so all figures are somewhat too high. No test data are read.
- `fused` is the score that a row ranks by. `independent` compares embeddings that depend on one item each; where a row
  ranks by them, it equals `fused`. `reranked` orders the best 15 by `fused` again, by reciprocal ranks.
- Report card, by the score `fused`. I: how often an image scores its caption above a wrong variant of it, over all
  kinds of variants, and over those that the row was not trained on (in a difference, neither of the two rows). II and
  III: the share of recall that is kept, as area under the curve, when captions are appended or shortened.
"""
_Cells = Callable[[RowOutcome], Sequence[str]]


def document(grid: Grid, cells: Sequence[Cell], command: str) -> str:
    """The results of the finished cells as Markdown.

    Args:
        grid: The grid.
        cells: Its cells.
        command: The command that runs the experiment.

    Raises:
        UserError: If a file of a cell cannot be read.
    """
    outcomes = Outcomes(cells)
    lines = ["# Experiment", "", "This page is written by:", "", "```sh", command, "```", ""]
    lines += [*(f"- {line}" for line in _about(grid, cells, outcomes)), "", "## How to read the tables", "", _READING]
    for outcome in outcomes.groups():
        lines += _group(outcome)
    return "\n".join(lines).rstrip() + "\n"


def _about(grid: Grid, cells: Sequence[Cell], outcomes: Outcomes) -> Iterator[str]:
    seeds = ", ".join(str(seed) for seed in sorted({cell.seed for cell in cells}))
    done = sum(cell.task.is_done for cell in cells)
    yield f"Seeds: {seeds}. {done} of {len(cells)} runs (a row of a group with one seed) are finished."
    yield "Machines: " + ("; ".join(f"{name}, {n} runs" for name, n in outcomes.machines().items()) or "none") + "."
    yield from grid.notes


def _group(outcome: GroupOutcome) -> Iterator[str]:
    rows, compared = outcome.rows, [row for row in outcome.rows if row.differences]
    yield f"## {outcome.group.name}"
    yield ""
    if outcome.group.about:
        yield from (outcome.group.about, "")
    scores = [score for score in SCORES if any((score, "rsum") in row.figures for row in rows)]
    sums: list[Key] = [(score, "rsum") for score in scores]
    words = [in_words(score) for score in scores]
    yield from _table("rSum by score", words, rows, lambda row: _figures(row, sums))
    if compared:
        heads = ["baseline", *words, "p (fused)", "Holm (fused)"]
        yield from _table("rSum minus that of the baseline", heads, compared, lambda row: _compared(row, sums))
    yield from _table(
        "Recall by `fused`", [label(name) for _, name in _RECALLS], rows, lambda row: _figures(row, _RECALLS)
    )
    card = [key for key in _CARD if any(key in row.figures for row in rows)]
    if card:
        yield from _table("Report card", [_CARD[key] for key in card], rows, lambda row: _figures(row, card))
    paired = [key for key in card if key != (CARD_SCORE, CONTROL)]
    if card and compared:
        heads = ["baseline", *(_CARD[key] for key in paired)]
        title = "Report card minus that of the baseline"
        yield from _table(title, heads, compared, lambda row: _differences(row, paired))
    yield from _settings(outcome.group, rows)


def _table(title: str, heads: Sequence[str], rows: Sequence[RowOutcome], cells: _Cells) -> Iterator[str]:
    yield f"### {title}"
    yield ""
    yield f"| row | {' | '.join(heads)} |"
    yield "|---" * (1 + len(heads)) + "|"
    for row in rows:
        yield f"| {row.row.name} | {' | '.join(cells(row))} |"
    yield ""


def _figures(row: RowOutcome, keys: Sequence[Key]) -> list[str]:
    return [_figure(row.figures[key]) if key in row.figures else "" for key in keys]


def _figure(figure: Interval) -> str:
    return f"{figure.value:.1f} ({figure.low:.1f} to {figure.high:.1f})"


def _differences(row: RowOutcome, keys: Sequence[Key]) -> list[str]:
    found = row.differences
    return [str(row.row.baseline), *(_difference(found[key]) if key in found else "" for key in keys)]


def _difference(found: Difference) -> str:
    return f"{found.value:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


def _compared(row: RowOutcome, keys: Sequence[Key]) -> list[str]:
    fused = row.differences["fused", "rsum"]
    return [*_differences(row, keys), f"{fused.p_value:.4f}", f"{fused.holm_p_value:.4f}"]


def _settings(group: Group, rows: Sequence[RowOutcome]) -> Iterator[str]:
    """What each row is: the flags that it adds to those of the group."""
    configs = " ".join(f"--config {config}" for config in group.configs)

    def cells(row: RowOutcome) -> list[str]:
        seeds = ", ".join(map(str, row.seeds))
        return [row.row.about, f"`{flags_in_words(row.row)}`".replace("``", "none"), seeds, _tried(group, row.row)]

    heads = ["what it is", f"added to `ascl fit {configs}`", "seeds", "configurations tried"]
    yield from _table("Rows", heads, rows, cells)


def _tried(group: Group, row: Row) -> str:
    return str(group.tried.get(row.name, 1))
