"""A grid file: rows of experiments in groups that share data and towers, and the commands of each cell.

A cell is one row of one group with one seed. Its folder is named after its settings, with a hash of the configs that it
uses: after a change of a config, its cells run again, and all others stay done.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from ascl_lightning.errors import UserError
from ascl_lightning.experiment.tasks import Task
from ascl_lightning.runtime.config_files import find_config

SPLITS = ["train", "val"]
"""Splits that cells can read. Test data are never extracted."""
_REFERENCE = ".yaml"

Settings = Mapping[str, Any]
"""Flags of the command line, without dashes, with their values."""


@dataclass(frozen=True, eq=False)
class Row:
    """A method or an ablation.

    Args:
        name: Name of the row.
        about: What it is, for the document.
        configs: Configs that are added to those of the group.
        settings: Flags for training and validation.
        stored: Flags that change stored features, for extraction too; rows with equal ones share the features. None:
            the row reads the data themselves.
        baseline: Row to compare with; None for no comparison.
        groups: Names of the groups that have this row; None: all.
    """

    name: str
    about: str = ""
    configs: Sequence[str] = ()
    settings: Settings = field(default_factory=dict)
    stored: Settings | None = field(default_factory=dict)
    baseline: str | None = None
    groups: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """A frame in which rows are compared.

    Args:
        name: Name of the group.
        about: What its rows share, for the document.
        configs: Configs of all rows.
        extract: Flags of `ascl extract`, if features are to be stored; None: rows read the data themselves.
        tried: For each row, the number of configurations that were tried on the validation split; other rows have 1.
    """

    name: str
    about: str = ""
    configs: Sequence[str] = ()
    extract: Settings | None = None
    tried: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """The content of a grid file.

    Args:
        groups: Groups in the order of the document.
        rows: Rows in the order of the document.
        seeds: Seeds of the full form.
        quick: Patterns of the rows of the quick form, as for `--only`.
        settings: Flags of all trainings and validations.
        validate: Flags of all validations.
        notes: Sentences for the document, such as what the pretrained towers have seen.
    """

    groups: Sequence[Group]
    rows: Sequence[Row]
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    quick: Sequence[str] = ()
    settings: Settings = field(default_factory=dict)
    validate: Settings = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def read(cls, path: Path) -> "Grid":
        """Reads a grid file, whose keys are the fields of `Grid`; `groups` and `rows` map names to fields.

        Raises:
            UserError: If the file cannot be read, has an unknown key, or names a row, group or config that is missing.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"--grid {path}: cannot be read: {' '.join(str(error).split())}") from error
        given = _fields(cls, content, str(path))
        groups = [
            Group(name, **_fields(Group, of, f"{path}: groups.{name}")) for name, of in _named(given, "groups", path)
        ]
        rows = [Row(name, **_fields(Row, of, f"{path}: rows.{name}")) for name, of in _named(given, "rows", path)]
        grid = cls(**given | {"groups": groups, "rows": rows})
        grid._check(path)
        return grid

    def _check(self, path: Path) -> None:
        names = {row.name for row in self.rows}
        groups = {group.name for group in self.groups}
        for row in self.rows:
            if row.baseline is not None and row.baseline not in names - {row.name}:
                raise UserError(f"{path}: rows.{row.name}: its baseline '{row.baseline}' is no other row")
            missing = set(row.groups or ()) - groups
            if missing:
                raise UserError(f"{path}: rows.{row.name}: there is no group '{min(missing)}'")
        for group in self.groups:
            missing = set(group.tried) - names
            if missing:
                raise UserError(f"{path}: groups.{group.name}.tried: there is no row '{min(missing)}'")
        for configs in (*(group.configs for group in self.groups), *(row.configs for row in self.rows)):
            for config in configs:
                find_config(config)

    def rows_of(self, group: Group) -> list[Row]:
        """The rows of a group."""
        return [row for row in self.rows if row.groups is None or group.name in row.groups]

    def needs_data(self) -> bool:
        """Whether a group stores features, which `ascl extract` makes from a folder of data."""
        return any(group.extract is not None for group in self.groups)


@dataclass(frozen=True, eq=False)
class Cell:
    """One row of one group with one seed: of weights and dropout, and of the order of pairs and all draws of data."""

    group: Group
    row: Row
    seed: int
    task: Task


class Cells:
    """The cells of a grid in a folder.

    Args:
        grid: The grid.
        out: Folder of the experiment.
        data: Folder of the data; None if the source needs none.
        machine: Flags for all commands that say where to run, such as `--trainer.accelerator gpu`. They do not change
            the name of a cell's folder.
    """

    def __init__(self, grid: Grid, out: Path, data: Path | None = None, machine: Sequence[str] = ()) -> None:
        self._grid = grid
        self._out = out
        self._root = {} if data is None else {"data.root": str(data)}
        self._machine = tuple(machine)
        self._extractions: dict[str, Task] = {}

    def chosen(self, seeds: Sequence[int], only: Sequence[str] = ()) -> list[Cell]:
        """The cells of some seeds and rows; the first seed of all rows comes first.

        Args:
            seeds: Seeds to run.
            only: Patterns of GROUP/ROW, of which one must match; empty: all rows.

        Raises:
            UserError: If a pattern matches no row.
        """
        every = [(group, row) for group in self._grid.groups for row in self._grid.rows_of(group)]
        for pattern in only:
            if not any(fnmatchcase(_path(*pair), pattern) for pair in every):
                raise UserError(
                    f"no row matches '{pattern}': rows are named {', '.join(_path(*pair) for pair in every)}"
                )
        kept = [pair for pair in every if not only or any(fnmatchcase(_path(*pair), pattern) for pattern in only)]
        return [self._cell(group, row, seed) for seed in seeds for group, row in kept]

    def _cell(self, group: Group, row: Row, seed: int) -> Cell:
        extraction = None
        configs = [*group.configs, *row.configs]
        data: Settings = self._root
        if group.extract is not None and row.stored is not None:
            extraction = self._extraction(group, row.stored)
            data = {"data.source": "ExtractedFeatures", "data.root": str(extraction.folder / "tables")}
        settings = {**self._grid.settings, **(row.stored or {}), **row.settings}
        about = _digest(configs, {**settings, "validate": self._grid.validate}, extraction)
        folder = self._out / group.name / f"{row.name}-{about}" / f"seed_{seed}"
        place = {"seed_everything": seed, "data.seed": seed, "trainer.default_root_dir": str(folder)}
        shared = [*_flags(configs, {**settings, **data, **place}), *self._machine]
        commands = (
            ("fit", *shared, "--resume"),
            ("validate", *shared, *_flags([], self._grid.validate), "--ckpt_path", "best"),
        )
        removed = ("fit/*/checkpoints", "fit/*/weights")
        return Cell(group, row, seed, Task(f"{_path(group, row)} seed {seed}", folder, commands, extraction, removed))

    def _extraction(self, group: Group, stored: Settings) -> Task:
        settings = {**(group.extract or {}), **stored}
        about = _digest(group.configs, settings)
        if about not in self._extractions:
            folder = self._out / "features" / about
            place = {"out": str(folder / "tables"), "splits": SPLITS}
            command = ("extract", *_flags(group.configs, {**settings, **self._root, **place}), *self._machine)
            self._extractions[about] = Task(f"features of {group.name} ({about})", folder, (command,))
        return self._extractions[about]


def _path(group: Group, row: Row) -> str:
    return f"{group.name}/{row.name}"


def _flags(configs: Sequence[str], settings: Settings) -> list[str]:
    """The command line of configs and settings; values other than text as JSON, which is YAML."""
    flags = [part for config in configs for part in ("--config", config)]
    for name, value in settings.items():
        flags += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return flags


def flags_in_words(row: Row) -> str:
    """The flags that a row adds to those of its group, for the document."""
    return shlex.join(_flags(row.configs, {**(row.stored or {}), **row.settings}))


def _digest(configs: Sequence[str], settings: Settings, extraction: Task | None = None) -> str:
    """A short hash of settings, of the content of configs and all that they refer to, and of the features."""
    content = [_content(find_config(config)) for config in configs]
    stored = None if extraction is None else extraction.folder.name
    text = json.dumps([content, settings, stored], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _content(path: Path) -> list[Any]:
    """The content of a config, followed by that of the configs that it refers to."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = content.values() if isinstance(content, dict) else ()
    parts = [path.parent / value for value in values if isinstance(value, str) and value.endswith(_REFERENCE)]
    return [content, *(_content(part) for part in parts)]


def _named(given: Mapping[str, Any], key: str, path: Path) -> list[tuple[str, Any]]:
    found = given.get(key)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: {key}: give a mapping of names to settings")
    for name in found:
        if not str(name).replace("-", "").replace("_", "").isalnum():
            raise UserError(f"{path}: {key}: '{name}' names folders: use letters, digits, - and _ only")
    return [(str(name), of or {}) for name, of in found.items()]


def _fields(kind: type, content: Any, place: str) -> dict[str, Any]:
    known = {of.name for of in fields(kind)} - {"name"}
    if not isinstance(content, dict):
        raise UserError(f"{place}: give a mapping with some of the keys {', '.join(sorted(known))}")
    unknown = content.keys() - known
    if unknown:
        raise UserError(f"{place}: unknown key '{min(unknown)}'; the keys are {', '.join(sorted(known))}")
    return dict(content)
