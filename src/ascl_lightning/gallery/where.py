"""Filters of a gallery, such as `year >= 2024 and not (width < 1000 or caption contains "dog")`.

```
filter      any ("or" any)*        with any = all ("and" all)*
all         "not" all | "(" filter ")" | comparison
comparison  FIELD ("=" | "!=" | "<" | "<=" | ">" | ">=" | "contains") VALUE
VALUE       a number, or a text in single or double quotes
```

A comparison is false for an item without the field. `contains` compares texts and ignores case; for `tags`, it is true
if one of the tags is the value.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ascl_lightning.errors import UserError

FIELDS: Mapping[str, type] = {
    "id": int,
    "path": str,
    "folder": str,
    "name": str,
    "size": int,
    "width": int,
    "height": int,
    "taken": str,
    "year": int,
    "month": int,
    "caption": str,
    "tags": list,
}
"""Fields of an item, and whether each is a number, a text, or a list of texts, one per line."""

_MAX_LENGTH, _MAX_DEPTH = 2_000, 20
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<text>'[^']*'|"[^"]*")"""
    r"""|(?P<operator><=|>=|!=|==|=|<|>|\(|\))|(?P<word>[A-Za-z_]\w*))"""
)
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "contains")


@dataclass(frozen=True)
class Comparison:
    """A field compared with a value."""

    field: str
    operator: str
    value: int | float | str


@dataclass(frozen=True)
class Not:
    """True where another filter is false."""

    inner: "Filter"


@dataclass(frozen=True)
class Joined:
    """Two or more filters joined by `and` or by `or`."""

    operator: Literal["and", "or"]
    parts: tuple["Filter", ...]


Filter = Comparison | Not | Joined


def parse_filter(text: str) -> Filter:
    """Parses a filter.

    Args:
        text: The filter, in the grammar of this module.

    Raises:
        UserError: If it does not follow the grammar, names no field of an item, or compares a number with a text.

    Example:
        >>> parse_filter("year >= 2024")
        Comparison(field='year', operator='>=', value=2024)
    """
    return _Parser(text).parse()


def filter_sql(tree: Filter) -> tuple[str, list[int | float | str]]:
    """A filter as a condition on table `items`, with placeholders, and their values.

    Only names of `FIELDS` and operators of the grammar become SQL.

    Example:
        >>> filter_sql(parse_filter("not year = 2024"))
        ('(NOT (year IS NOT NULL AND year = ?))', [2024])
    """
    if isinstance(tree, Comparison):
        # without the first part, NULL would stay NULL under NOT
        known = f"{tree.field} IS NOT NULL AND"
        if FIELDS[tree.field] is list:
            lines = f"char(10) || casefold({tree.field}) || char(10)"
            return f"({known} instr({lines}, ?) > 0)", [f"\n{str(tree.value).casefold()}\n"]
        if tree.operator == "contains":
            return f"({known} instr(casefold({tree.field}), ?) > 0)", [str(tree.value).casefold()]
        return f"({known} {tree.field} {tree.operator} ?)", [tree.value]
    if isinstance(tree, Not):
        condition, values = filter_sql(tree.inner)
        return f"(NOT {condition})", values
    # side by side: the stack of SQLite's parser has 100 entries
    conditions, of_parts = zip(*map(filter_sql, tree.parts), strict=True)
    return f"({f' {tree.operator.upper()} '.join(conditions)})", [value for values in of_parts for value in values]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > _MAX_LENGTH:
            raise UserError(f"--where: the filter has {len(text):,} characters; give at most {_MAX_LENGTH:,}")
        self._tokens = self._split()
        self._depth = 0

    def parse(self) -> Filter:
        if not self._tokens:
            raise UserError("--where: the filter is empty; give a comparison such as 'year >= 2024'")
        tree = self._joined("or")
        if self._tokens:
            raise self._error(f"expected 'and', 'or' or the end, found '{self._tokens[0][1]}'")
        return tree

    def _split(self) -> list[tuple[str, str]]:
        tokens, place = [], 0
        end = len(self._text.rstrip())
        while place < end:
            found = _TOKEN.match(self._text, place)
            if found is None or found.lastgroup is None:
                raise self._error(f"cannot read '{self._text[place:].strip()[:20]}'; texts need quotes")
            tokens.append((found.lastgroup, found[found.lastgroup]))
            place = found.end()
        return tokens

    def _joined(self, operator: Literal["and", "or"]) -> Filter:
        parts = [self._joined("and") if operator == "or" else self._single()]
        while self._next_is(operator):
            parts.append(self._joined("and") if operator == "or" else self._single())
        return Joined(operator, tuple(parts)) if len(parts) > 1 else parts[0]

    def _single(self) -> Filter:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"more than {_MAX_DEPTH} nested brackets or 'not'")
        if self._next_is("not"):
            tree: Filter = Not(self._single())
        elif self._next_is("("):
            tree = self._joined("or")
            if not self._next_is(")"):
                raise self._error("a closing bracket is missing")
        else:
            tree = self._comparison()
        self._depth -= 1
        return tree

    def _comparison(self) -> Comparison:
        kind, field = self._take("a field")
        if kind != "word" or field.lower() not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(FIELDS)}"
            raise self._error(f"'{field}' is not a field; {advice}")
        field = field.lower()
        operator = self._take("a comparison")[1].lower().replace("==", "=")
        if operator not in _OPERATORS:
            raise self._error(f"'{operator}' does not compare; choose from {', '.join(_OPERATORS)}")
        kind, text = self._take("a value")
        if kind not in ("number", "text"):
            raise self._error(f"'{text}' is neither a number nor a text in quotes")
        value = text[1:-1] if kind == "text" else _number(text)
        if FIELDS[field] is list and operator != "contains":
            raise self._error(f'{field} is a list: ask what it contains, as in {field} contains "beach"')
        if isinstance(value, str) != (FIELDS[field] is not int):
            wanted = "a number" if FIELDS[field] is int else "a text in quotes"
            raise self._error(f"{field} is compared with {wanted}, not with {text}")
        if operator == "contains" and not isinstance(value, str):
            raise self._error(f"'contains' needs a field that is a text; {field} is a number")
        return Comparison(field, operator, value)

    def _next_is(self, word: str) -> bool:
        if not self._tokens or self._tokens[0][0] in ("text", "number") or self._tokens[0][1].lower() != word:
            return False
        self._tokens.pop(0)
        return True

    def _take(self, wanted: str) -> tuple[str, str]:
        if not self._tokens:
            raise self._error(f"expected {wanted} at the end")
        return self._tokens.pop(0)

    def _error(self, reason: str) -> UserError:
        return UserError(f"--where '{self._text}': {reason}")


def _number(text: str) -> int | float:
    value: int | float = float(text)
    if re.fullmatch(r"[-+]?\d+", text) and abs(value) < 2**53:
        value = int(text)
    return value
