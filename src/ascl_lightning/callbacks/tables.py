"""Recalls and ranks as rows of a table."""

from collections.abc import Mapping

from rich import box
from rich.table import Column, Table
from rich.text import Text

from ascl_lightning.metrics.bootstrap import Interval

COLUMNS = ("R@1", "R@5", "R@10", "median rank", "mean rank", "rSum")
_KEYS = ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank", "mean_rank")
_DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
_SHORT = {"image_to_text": "i2t", "text_to_image": "t2i"}


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
        for direction, short in _SHORT.items():
            names = [*(f"{direction}/{key}" for key in _KEYS), "rsum" if direction == "text_to_image" else ""]
            cells = [_with_interval(figures[name]) if name in figures else "" for name in names]
            label = Text.assemble((score.replace("_", " "), "bold"), "\n", short)
            table.add_row(label, *cells, end_section=direction == "text_to_image")
    for name, of_ceiling in recall_rows({f"ceiling/{name}": value for name, value in ceiling.items()}):
        group, _, words = name.partition(": ")
        table.add_row(f"{group}\n{_SHORT[words.replace(' ', '_')]}", *of_ceiling)
    return table


def _with_interval(figure: Interval) -> Text:
    return Text.assemble(f"{figure.value:.1f}", "\n", (f"{_end(figure.low)}-{_end(figure.high)}", "dim"))


def _end(value: float) -> str:
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
