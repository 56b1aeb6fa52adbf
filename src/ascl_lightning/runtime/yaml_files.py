"""Reads untrusted YAML: checks size, cycles and duplicate keys before building objects."""

from pathlib import Path
from typing import Any

import yaml

from ascl_lightning.errors import UserError

MAX_NODES = 100_000
"""Most nodes of a document; an alias counts as all nodes of its target."""
MAX_DEPTH = 50
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Collection:
    """A mapping or sequence whose end has not been read yet."""

    def __init__(self, start: yaml.CollectionStartEvent) -> None:
        self.start = start
        self.num_nodes = 1
        self._num_children = 0
        self._keys: set[str] = set()

    def add(self, num_nodes: int, event: yaml.NodeEvent) -> None:
        """Counts a child; every second child of a mapping is a value."""
        self.num_nodes += num_nodes
        is_key = isinstance(self.start, yaml.MappingStartEvent) and self._num_children % 2 == 0
        if is_key and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
            if event.value in self._keys:
                raise _fault(event, f"the key '{event.value}' is repeated")
            self._keys.add(event.value)
        self._num_children += 1


def check_yaml(text: str) -> None:
    """Rejects documents with cycles, too many nodes or duplicate keys.

    Reads the stream of events once, without building objects.

    Args:
        text: One YAML document.

    Raises:
        yaml.YAMLError: If it is not YAML, has a cycle, repeats a key, or exceeds `MAX_NODES` or `MAX_DEPTH`.
    """
    num_nodes: dict[str | None, int] = {}
    opened: list[_Collection] = []
    node: yaml.NodeEvent
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            if len(opened) == MAX_DEPTH:
                raise _fault(event, f"nested more than {MAX_DEPTH} levels deep")
            opened.append(_Collection(event))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            ended = opened.pop()
            node, size = ended.start, ended.num_nodes
        elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            node, size = event, _leaf_size(event, opened, num_nodes)
        else:
            continue
        if opened:
            opened[-1].add(size, node)
        if max(size, opened[-1].num_nodes if opened else 0) > MAX_NODES:
            raise _fault(node, f"more than {MAX_NODES:,} values, including those of aliases")
        num_nodes[node.anchor] = size


def _leaf_size(event: yaml.NodeEvent, opened: list[_Collection], num_nodes: dict[str | None, int]) -> int:
    if isinstance(event, yaml.ScalarEvent):
        return 1
    if any(collection.start.anchor == event.anchor for collection in opened):
        raise _fault(event, f"the anchor '{event.anchor}' contains itself")
    return num_nodes.get(event.anchor, 1)


def _fault(event: yaml.NodeEvent, message: str) -> yaml.YAMLError:
    error = yaml.MarkedYAMLError(problem=message)
    error.problem_mark = event.start_mark  # type: ignore[assignment]  # libyaml's class
    return error


def read_config(path: Path) -> dict[str, Any]:
    """Reads a config file.

    Args:
        path: A regular file; a pipe could block forever.

    Returns:
        The mapping in the file.

    Raises:
        UserError: If the file is missing, not a regular file, unreadable, or not a YAML mapping in UTF-8.
    """
    if not path.exists():
        raise UserError(f"config '{path}': there is no such file")
    if not path.is_file():
        raise UserError(f"config '{path}': not a regular file")
    try:
        text = path.read_text(encoding="utf-8")
        check_yaml(text)
        content = yaml.load(text, Loader=_Loader)  # a safe loader
    except OSError as error:
        raise UserError(f"config '{path}': cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config '{path}': not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"config '{path}'{describe_yaml_error(error)}") from error
    if content is None:
        raise UserError(f"config '{path}': the file is empty")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"config '{path}': expected 'name: value' lines, found a {type(content).__name__}")
    return content


def describe_yaml_error(error: yaml.YAMLError) -> str:
    """Line and problem of an error, to append to a file name."""
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f", line {mark.line + 1}"
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f"{place}: {problem}"
