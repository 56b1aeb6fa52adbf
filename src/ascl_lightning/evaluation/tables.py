"""Terminal tables of an evaluation, at most 80 columns wide: metrics with intervals, and the report card."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from ascl_lightning.metrics.intervals import Interval
from ascl_lightning.metrics.labels import COLUMNS, RECALLS, SHORT_WAYS, in_words, recall_rows, row_of

_TYPES = {"I": "I, wrong\ndetail", "II": "II, extra\nwords", "III": "III, missing\nwords"}
_UNSEEN = "I, unseen\nin training"


def interval_table(title: str, scores: Mapping[str, Mapping[str, Interval]], ceiling: Mapping[str, float]) -> Table:
    """Recalls and ranks with a row per score and direction; intervals are in brackets below the values.

    Args:
        title: Title of the table.
        scores: Metrics of `retrieval_metrics` by score.
        ceiling: Metrics of an oracle scorer; empty if the data have no ground truth.
    """
    table = compact_table(title, *(name.replace(" ", "\n") for name in COLUMNS))
    for score, figures in scores.items():
        table.add_row(Text(in_words(score), "bold"))
        for direction, short in SHORT_WAYS.items():
            cells = [_with_interval(figures[name]) if name in figures else "" for name in row_of(direction)]
            table.add_row(f"  {short}", *cells)
    if ceiling:
        table.add_row(Text("ceiling", "bold"))
        for short, (_, of_ceiling) in zip(SHORT_WAYS.values(), recall_rows(dict(ceiling)), strict=True):
            table.add_row(f"  {short}", *of_ceiling)
    return table


def compact_table(title: str, *columns: str) -> Table:
    """An empty table with row headings and narrow columns that are not truncated."""
    right = (Column(name, justify="right", no_wrap=True) for name in columns)
    return Table(Column(no_wrap=True), *right, title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)


def type_table(card: Mapping[str, Any]) -> Table:
    """The summary value of each type with its interval, one row per score, and the text-only control of type I.

    Args:
        card: Content of `report_card.json`.
    """
    # heading, values by score, and control of each column
    columns: list[tuple[str, Mapping[str, Any], Mapping[str, float] | None]] = []
    for type_, of_type in card["types"].items():
        columns.append((_TYPES[type_], of_type["value"], of_type.get("control")))
        if unseen := of_type.get("unseen"):
            columns.append((_UNSEEN, unseen["value"], unseen["control"]))
    table = compact_table("Asymmetry report card, %", *(heading for heading, _, _ in columns))
    for score in card["scores"]:
        table.add_row(in_words(score), *(_with_interval(Interval(**values[score])) for _, values, _ in columns))
    if any(control for _, _, control in columns):
        cells = (_with_interval(Interval(**control)) if control else "" for _, _, control in columns)
        table.add_row("text only", *cells)
    return table


def operation_table(card: Mapping[str, Any], score: str) -> Table:
    """R@1 of the unchanged captions and at each level of each operation, and how often T scores above T-.

    Beside the latter are the text-only control, and whether T- of the training were of the same kind.

    Args:
        card: Content of `report_card.json`.
        score: Score to show.
    """
    beats = {row["operation"]: _preference(row) for row in card["discrimination"] if row["score"] == score}
    rows: dict[str, dict[str, Any]] = {}
    for curve in card["curves"]:
        if curve["score"] == score and curve["metric"] == "recall_at_1" and curve["type"] != "length":
            row = rows.setdefault(curve["name"], {})
            row |= {curve["direction"]: _levels(curve["y"]), "n": curve["n"][0]}
    recalls = (f"{short}\n{RECALLS['recall_at_1']}" for short in SHORT_WAYS.values())
    table = compact_table(f"By {in_words(score)} score", "captions", *recalls, "T > T-", "text\nonly", "trained\non")
    for operation, row in rows.items():
        cells = (row[direction] for direction in SHORT_WAYS)
        table.add_row(in_words(operation), f"{row['n']:,}", *cells, *beats.get(operation, ()))
    return table


def _preference(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """How often T scores above T-, the text-only control, and whether such T- were trained on."""
    control = "" if row["control"] is None else f"{row['control']['value']:.1f}"
    return f"{row['value']:.1f}", control, "yes" if row["trained_on"] else "no"


def hard_negatives_table(title: str, content: Mapping[str, Any]) -> Table:
    """Accuracy by category with a column per score; intervals are in brackets below the values.

    Args:
        title: Title of the table.
        content: Content of `hard_negatives.json`.
    """
    rows = content["rows"]
    scores = list(rows[0]["scores"])
    table = compact_table(f"{title}: hard negatives, %", "tests", "control", *map(in_words, scores))
    table.columns[0].no_wrap = False
    for row in rows:
        name = in_words(row["category"]).replace("-", " ")
        words = name if row["figure"] == "accuracy" else f"{name}, {row['figure']}"
        control = "" if row["control"] is None else f"{row['control']['value']:.1f}"
        cells = (_with_interval(Interval(**row["scores"][score])) for score in scores)
        table.add_row(words, f"{row['n']:,}", control, *cells)
    return table


def _with_interval(figure: Interval) -> Text:
    return Text.assemble(f"{figure.value:.1f}", "\n", (f"[{_end(figure.low)},{_end(figure.high)}]", "dim"))


def _end(value: float) -> str:
    """Formats a value below 10,000 with at most four characters."""
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _levels(heights: Sequence[float]) -> str:
    return "/".join(f"{height:.0f}" for height in heights)
