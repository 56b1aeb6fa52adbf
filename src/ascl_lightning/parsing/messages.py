"""Rewrites the error messages of jsonargparse to one line: what was expected and what was given."""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_args, get_type_hints

from ascl_lightning.parsing.early_checks import SECTIONS

_KEY = re.compile(r'^Parser key "([^"]+)":\s*')
_GIVEN = re.compile(r"(?:Got|Given) value: (.*)$")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NO_FILE = re.compile(r"^- Expected a path but .* either not accessible or invalid\s*")
_EXPECTED = re.compile(
    r"Expected an? (?P<type><class '[^']+'>|typing\.Literal\[[^\]]*\])"
    r"|Input should be (?P<range>[^\[]+?) \[type="
    r"|Value error, expected (?P<expected>[^\[]+?) \[type="
    r"|does not conform to restriction (?P<restriction>v\S+(?: and v\S+)*)"
)
_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "list": "a list",
    "dict": "a mapping",
    "collections.abc.Iterable": "a list",
    "a valid integer, unable to parse string as an integer": "a whole number",
    "a valid integer": "a whole number",
    "a valid number, unable to parse string as a number": "a number",
    "a valid number": "a number",
}


def plain_message(message: str) -> str:
    """Rewrites an error message of the parser.

    Args:
        message: Message of jsonargparse, of several lines.

    Returns:
        One line. An unknown class is followed by the known ones; a message without a known pattern is only joined.
    """
    text = " ".join(message.split())
    key = _KEY.match(text)
    # for nested arguments the parser gives only the last part of the name, which is not a flag
    place = "" if key is None else f"--{key[1]}: " if "." in key[1] else f"{key[1]}: "
    rest = _NO_FILE.sub("", text if key is None else text[key.end() :])
    missing = _NO_CLASS.search(rest)
    if missing is not None:
        known = _class_names("" if key is None else key[1])
        return f"{place}unknown class '{missing[1]}'" + (f"; choose from {', '.join(known)}" if known else "")
    found = _GIVEN.search(rest)
    given = "" if found is None else found[1]
    expected = list(dict.fromkeys(_described(one, given) for one in _EXPECTED.finditer(rest)))
    if not expected:
        return f"{place}{rest}"
    return f"{place}expected {' or '.join(expected)}, got '{given}'"


def _described(found: re.Match[str], given: str) -> str:
    if found["range"] is not None:
        if found["range"].endswith(("than", "to")):
            # the parser removes the given value from the message, and with it an equal limit
            return f"a number {found['range']} {given}"
        return _NAMES.get(found["range"], f"a number {found['range']}")
    if found["expected"] is not None:
        return found["expected"]
    if found["restriction"] is not None:
        return "a number " + found["restriction"].replace("v", "")
    name = found["type"]
    if name.startswith("typing.Literal"):
        choices = name.removeprefix("typing.Literal[").removesuffix("]").replace("'", "")
        return f"one of {choices}" if ", " in choices else choices
    name = name.removeprefix("<class '").removesuffix("'>")
    return _NAMES.get(name, f"a {name}")


def _class_names(key: str) -> list[str]:
    """Classes for an argument such as `data.negatives`, among the imported modules."""
    section, _, argument = key.partition(".")
    if section not in SECTIONS:
        return []
    module, _, name = SECTIONS[section].rpartition(".")
    hint = get_type_hints(inspect.unwrap(getattr(import_module(module), name).__init__)).get(argument)
    return sorted({found.__name__ for base in _classes_in(hint) for found in _concrete(base)})


def _classes_in(hint: Any) -> Iterator[type]:
    inner = get_args(hint)
    for one in inner:
        yield from _classes_in(one)
    if not inner and inspect.isclass(hint) and hint.__module__ != "builtins":
        yield hint


def _concrete(base: type) -> Iterator[type]:
    if not inspect.isabstract(base) and not base.__name__.startswith("_"):
        yield base
    subclasses: list[type] = base.__subclasses__()
    for subclass in subclasses:
        yield from _concrete(subclass)
