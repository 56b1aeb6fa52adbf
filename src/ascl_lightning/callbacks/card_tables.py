"""The report card as tables of a terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Column, Table

_NAMES = {"I": "I, a detail wrong", "II": "II, too many words", "III": "III, too few words"}
_SHORT = {"image_to_text": "i2t R@1", "text_to_image": "t2i R@1"}


def type_table(card: Mapping[str, Any]) -> Table:
    """The single figure of each type, by score, with its interval.

    Args:
        card: What `report_card.json` holds.
    """
    columns = (Column(score.replace("_", " "), justify="right", no_wrap=True) for score in card["scores"])
    table = Table(Column(no_wrap=True), *columns, title="Asymmetry report card, %", box=box.SIMPLE_HEAD)
    for type_, of_type in card["types"].items():
        figures = (of_type["value"][score] for score in card["scores"])
        table.add_row(_NAMES[type_], *("{value:.1f} ({low:.1f}-{high:.1f})".format(**figure) for figure in figures))
    return table


def operation_table(card: Mapping[str, Any], score: str) -> Table:
    """R@1 at each level of each operation, the captions as they are first, and how often T beats T-.

    Args:
        card: What `report_card.json` holds.
        score: Which score's.
    """
    beats = {row["operation"]: row["value"] for row in card["discrimination"] if row["score"] == score}
    rows: dict[str, dict[str, Any]] = {}
    for curve in card["curves"]:
        if curve["score"] == score and curve["metric"] == "recall_at_1" and curve["type"] != "length":
            rows.setdefault(curve["name"], {"n": curve["n"][0]})[curve["direction"]] = _levels(curve["y"])
            rows[curve["name"]]["n"] = curve["n"][0]
    headings = ("captions", *_SHORT.values(), "T > T-")
    columns = (Column(name, justify="right", no_wrap=True) for name in headings)
    table = Table(Column(no_wrap=True), *columns, title=f"By {score.replace('_', ' ')} score", box=box.SIMPLE_HEAD)
    for operation, row in rows.items():
        cells = (row[direction] for direction in _SHORT)
        beaten = f"{beats[operation]:.1f}" if operation in beats else ""
        table.add_row(operation.replace("_", " "), f"{row['n']:,}", *cells, beaten)
    return table


def _levels(heights: list[float]) -> str:
    return " ".join(f"{height:.0f}" for height in heights)
