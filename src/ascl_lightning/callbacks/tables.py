"""Recalls and ranks with their intervals, as a table for the terminal."""

from collections.abc import Mapping

from rich import box
from rich.table import Column, Table
from rich.text import Text

from ascl_lightning.metrics.bootstrap import Interval
from ascl_lightning.metrics.labels import COLUMNS, METRICS, SHORT_DIRECTIONS, recall_rows


def interval_table(title: str, scores: Mapping[str, Mapping[str, Interval]], ceiling: Mapping[str, float]) -> Table:
    """Recalls and ranks with their intervals, two rows a score, under `COLUMNS`.

    Args:
        title: What stands above.
        scores: Figures of `retrieval_metrics` by score.
        ceiling: Of a scorer that knows the truth; none where the data do not know it.
    """
    columns = (Column(name.replace(" ", "\n"), justify="right", no_wrap=True) for name in COLUMNS)
    # in 80 columns, and no figure cut
    table = Table(
        Column(no_wrap=True), *columns, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for score, figures in scores.items():
        for direction, short in SHORT_DIRECTIONS.items():
            names = [*(f"{direction}/{key}" for key in METRICS), "rsum" if direction == "text_to_image" else ""]
            cells = [_with_interval(figures[name]) if name in figures else "" for name in names]
            label = Text.assemble((score.replace("_", " "), "bold"), "\n", short)
            table.add_row(label, *cells, end_section=direction == "text_to_image")
    for name, of_ceiling in recall_rows({f"ceiling/{name}": value for name, value in ceiling.items()}):
        group, _, words = name.partition(": ")
        table.add_row(f"{group}\n{SHORT_DIRECTIONS[words.replace(' ', '_')]}", *of_ceiling)
    return table


def _with_interval(figure: Interval) -> Text:
    return Text.assemble(f"{figure.value:.1f}", "\n", (f"{_end(figure.low)}-{_end(figure.high)}", "dim"))


def _end(value: float) -> str:
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
