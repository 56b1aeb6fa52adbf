"""One object of an annotation file, with checked fields; every error names the file, the row and the field."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NoReturn, TypeGuard

from ascl_lightning.errors import UserError


@dataclass(frozen=True)
class CaptionFault:
    """Why a caption cannot be used."""

    message: str
    is_blank: bool
    """Whether it is only white space; otherwise it is not text, or not valid Unicode."""


_NOTED: ContextVar[list[CaptionFault] | None] = ContextVar("_NOTED", default=None)


@contextmanager
def caption_faults() -> Iterator[list[CaptionFault]]:
    """Skips and collects faulty captions within the context; otherwise the first one raises an error."""
    faults: list[CaptionFault] = []
    token = _NOTED.set(faults)
    try:
        yield faults
    finally:
        _NOTED.reset(token)


_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


class Record:
    """One JSON object or row of a table, with checked access to its fields.

    Args:
        value: The parsed value.
        where: File and row, for messages.

    Raises:
        UserError: If `value` is not a dictionary.
    """

    __slots__ = ("_fields", "where")

    def __init__(self, value: object, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected an object with fields, found {_kind(value)}")
        self._fields: dict[str, object] = value

    def has(self, field: str) -> bool:
        """Whether the field exists and is not null."""
        return self._fields.get(field) is not None

    def is_list(self, field: str) -> bool:
        """Whether the field is a list."""
        return isinstance(self._fields.get(field), list)

    def fail(self, field: str, problem: str) -> NoReturn:
        """Raises an error for a field of this record.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.where}: field '{field}' {problem}")

    def text(self, field: str) -> str:
        """A non-blank text."""
        value = self._fields.get(field)
        return value if _is_text(value) else self._checked_text(self._get(field), field)

    def caption(self, field: str) -> tuple[str, ...]:
        """One caption; empty only if `caption_faults` collects it."""
        return self._noted(self._get(field), field)

    def captions(self, field: str) -> tuple[str, ...]:
        """A list of captions, without those that `caption_faults` collects."""
        values = self._list(field)
        if all(map(_is_text, values)):
            return tuple(values)  # type: ignore[arg-type]  # fast path
        return tuple(text for i, value in enumerate(values) for text in self._noted(value, f"{field}[{i}]"))

    def identifier(self, field: str) -> str:
        """A name or a whole number, as text."""
        value = self._get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self._checked_text(value, field)

    def number(self, field: str) -> int | None:
        """A 64-bit integer; None for anything else."""
        value = self._fields.get(field)
        return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else None

    def record(self, field: str) -> "Record":
        """The object of a field."""
        return Record(self._get(field), f"{self.where}, {field}")

    def records(self, field: str) -> Iterator["Record"]:
        """The objects of a list."""
        for i, value in enumerate(self._list(field)):
            yield Record(value, f"{self.where}, {field}[{i}]")

    def _get(self, field: str) -> object:
        if field not in self._fields:
            self.fail(field, "is missing")
        return self._fields[field]

    def _list(self, field: str) -> list[object]:
        value = self._get(field)
        if not isinstance(value, list):
            self.fail(field, f"must be a list, not {_kind(value)}")
        return value

    def _noted(self, value: object, field: str) -> tuple[str, ...]:
        if _is_text(value):
            return (value,)
        faults = _NOTED.get()
        try:
            return (self._checked_text(value, field),)
        except UserError as error:
            if faults is None:
                raise
            faults.append(CaptionFault(str(error), isinstance(value, str) and not value.strip()))
            return ()

    def _checked_text(self, value: object, field: str) -> str:
        if not isinstance(value, str):
            self.fail(field, f"must be text, not {_kind(value)}")
        if not _is_text(value):
            blank = not value.strip()
            self.fail(field, "is blank" if blank else "holds half of a character (an unpaired surrogate)")
        return value


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is non-blank text that can be encoded."""
    if not isinstance(value, str) or not value or value.isspace():
        return False
    # JSON can contain unpaired surrogates
    return value.isascii() or not _SURROGATE.search(value)


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")
