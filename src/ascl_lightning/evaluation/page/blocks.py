"""What the page is made of. Every number knows the file, and the place in it, that it was read from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Number:
    """A number of the page.

    Args:
        value: As in the file.
        source: Its place: a file and a JSON pointer (`results.json#/scores/...`); a CSV file, row and column
            (`metrics.csv#7/train/loss`); or a query and column (`queries.parquet#fused/own/image_to_text/7/rank`).
        digits: Shown behind the point.
    """

    value: int | float
    source: str
    digits: int = 1

    @property
    def text(self) -> str:
        """As shown."""
        return f"{self.value:,.{self.digits}f}"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, where it has one."""

    value: Number
    low: Number | None = None
    high: Number | None = None


_MADE_BY = {
    "report_card.json": "ascl test writes it with the report card.",
}

Cell = Estimate | Number | str | None


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first column heads the rows."""

    kind: ClassVar[str] = "table"
    title: str
    source: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing, what it says in words, and its numbers."""

    kind: ClassVar[str] = "chart"
    title: str
    source: str
    svg: str
    label: str
    table: Table | None
    note: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence; as a warning, it stands out."""

    kind: ClassVar[str] = "note"
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Listing:
    """Names with what belongs to them."""

    kind: ClassVar[str] = "listing"
    title: str
    source: str
    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Code:
    """A text to be copied, or folded away."""

    kind: ClassVar[str] = "code"
    title: str
    source: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Shown:
    """Queries with their results (`examples`), or pairs with their attention (`attention`), each a template's own."""

    kind: str
    title: str
    source: str
    items: Sequence[Any]
    note: str = ""


Block = Table | Chart | Note | Listing | Code | Shown


@dataclass(frozen=True)
class Section:
    """A heading with an anchor, and what stands under it."""

    anchor: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def pointer(file: str, *keys: str | int) -> str:
    """A place in a JSON file (RFC 6901).

    Example:
        >>> pointer("results.json", "scores", "fused", "image_to_text/recall_at_1", "value")
        'results.json#/scores/fused/image_to_text~1recall_at_1/value'
    """
    return f"{file}#" + "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in keys)


def missing(file: str) -> Note:
    """In the place of what a file would have shown."""
    return Note(f"This run's folder has no {file}. {_MADE_BY.get(file, 'ascl test, and ascl validate, write it.')}")
