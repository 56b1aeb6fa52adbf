"""Building blocks of the HTML report. Each number stores its source: a file and the place in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Number:
    """A number with its source.

    Args:
        value: Value in the file.
        source: File and JSON pointer (`results.json#/scores/...`), CSV file with row and column
            (`metrics.csv#7/train/loss`), or query and column (`queries.parquet#fused/own/image_to_text/7/rank`).
        digits: Number of decimals to display.
    """

    value: int | float
    source: str
    digits: int = 1

    @property
    def text(self) -> str:
        """The formatted number."""
        return f"{self.value:,.{self.digits}f}"


@dataclass(frozen=True)
class Estimate:
    """A number with an optional confidence interval."""

    value: Number
    low: Number | None = None
    high: Number | None = None


_MADE_BY = {
    "report_card.json": "It is written by ascl test with the report card enabled.",
}

Cell = Estimate | Number | str | None


@dataclass(frozen=True)
class Table:
    """A table; each row has a heading and cells."""

    kind: ClassVar[str] = "table"
    title: str
    source: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart with a text description and a table of its numbers."""

    kind: ClassVar[str] = "chart"
    title: str
    source: str
    svg: str
    label: str
    table: Table | None
    note: str = ""


@dataclass(frozen=True)
class Note:
    """A paragraph, highlighted if it is a warning."""

    kind: ClassVar[str] = "note"
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Listing:
    """A list of names and values."""

    kind: ClassVar[str] = "listing"
    title: str
    source: str
    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Code:
    """Preformatted text, optionally folded."""

    kind: ClassVar[str] = "code"
    title: str
    source: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Shown:
    """Queries with their results (`examples`), or pairs with their attention (`attention`)."""

    kind: str
    title: str
    source: str
    items: Sequence[Any]
    note: str = ""


Block = Table | Chart | Note | Listing | Code | Shown


@dataclass(frozen=True)
class Section:
    """A section with a heading, an anchor and blocks."""

    anchor: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def pointer(file: str, *keys: str | int) -> str:
    """A place in a JSON file as a JSON pointer (RFC 6901).

    Example:
        >>> pointer("results.json", "scores", "fused", "image_to_text/recall_at_1", "value")
        'results.json#/scores/fused/image_to_text~1recall_at_1/value'
    """
    return f"{file}#" + "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in keys)


def missing(file: str) -> Note:
    """A note in place of the content of a missing file."""
    made_by = _MADE_BY.get(file, "It is written by ascl test and ascl validate.")
    return Note(f"The run's folder has no {file}. {made_by}")
