"""Fast checks of flags and configs, which run before PyTorch is imported."""

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ascl_lightning.errors import UserError
from ascl_lightning.renamed import current_config
from ascl_lightning.runtime.config_files import is_inline
from ascl_lightning.runtime.number_types import MAX_SEED
from ascl_lightning.runtime.yaml_files import check_yaml, describe_yaml_error, read_config

SECTIONS = {
    "trainer": "lightning.pytorch.trainer.trainer.Trainer",
    "model": "ascl_lightning.training.module.RetrievalModule",
    "data": "ascl_lightning.data.datamodule.RetrievalDataModule",
    "checkpoint": "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "frozen_features": "ascl_lightning.training.callbacks.frozen_features.FrozenFeatures",
    "report_card": "ascl_lightning.evaluation.report_card.callback.ReportCard",
    "hubness": "ascl_lightning.evaluation.query_bank.HubnessBank",
    "recovery": "ascl_lightning.training.callbacks.recovery.RecoveryCheckpoints",
    "non_finite": "ascl_lightning.training.callbacks.non_finite.NonFiniteSteps",
}
"""Sections of a config, and the class whose constructor arguments each holds."""


def check_command_line(args: Sequence[str]) -> None:
    """Checks the names in configs and flags and the trainer's numbers, without importing the classes.

    Args:
        args: The command line, beginning with a command that reads configs.

    Raises:
        UserError: For a missing or malformed config, an unknown argument, or a number out of range.
    """
    flags = list(_flags(args[1:]))
    names = {name for name, _ in flags}
    if not names & {"config", "c", "help", "h", "help_all", "print_config"} and not any(
        name.partition(".")[0] == "model" for name in names
    ):
        raise UserError(
            f"ascl {args[0]}: give --config with a file or the name of a shipped config: ascl {args[0]} --config scenes"
        )
    for name, value in flags:
        section, dot, argument = name.partition(".")
        if name in ("config", "c"):
            _check_config(value)
        elif dot and section in SECTIONS:
            _check_names({argument: None}, section, f"--{section}.")
            check_number(name, _plain(value))
        elif name in SECTIONS:
            _check_section(_content(value), name, f"--{name}", Path())
        else:
            check_number(name, _plain(value))


def check_number(name: str, value: Any) -> None:
    """Rejects numbers that Lightning accepts but that give no meaningful run.

    Args:
        name: Name of a setting, such as `trainer.max_epochs`.
        value: The parsed value. Values that are not numbers, and other settings, are not checked.

    Raises:
        UserError: If the number is out of range.
    """
    if name == "seed_everything" and (value is True or (_is_number(value) and not 0 <= value <= MAX_SEED)):
        raise UserError(f"--{name} {str(value).lower()}: give a whole number from 0 to {MAX_SEED}")
    if name == "trainer.overfit_batches" and value != 0:
        raise UserError(
            f"--{name} {value}: Lightning would replace the samplers, on which reproducible draws rest; "
            "use --trainer.limit_train_batches and --trainer.limit_val_batches"
        )
    allowed = _ALLOWED.get(name.removeprefix("trainer."))
    if allowed is None or not name.startswith("trainer.") or not _is_number(value):
        return
    lowest, unlimited, share = allowed
    is_fraction = share and isinstance(value, float) and 0 < value <= 1
    # Lightning takes 4.0 for 4 batches
    is_count = float(value).is_integer() and value >= lowest
    if is_fraction or is_count or (unlimited and value == -1):
        return
    choices = [f"a whole number from {lowest}"]
    choices += ["-1 for no limit"] if unlimited else []
    choices += ["a fraction above 0 and up to 1.0"] if share else []
    raise UserError(f"--{name} {value}: give {' or '.join(choices)}")


# lowest whole number, whether -1 means no limit, whether a float is a fraction
_ALLOWED = {
    "max_epochs": (1, True, False),
    "max_steps": (1, True, False),
    "limit_train_batches": (1, False, True),
    "limit_val_batches": (0, False, True),
    "limit_test_batches": (1, False, True),
    "limit_predict_batches": (1, False, True),
    "accumulate_grad_batches": (1, False, False),
    "check_val_every_n_epoch": (1, False, False),
    "val_check_interval": (1, False, True),
    "log_every_n_steps": (0, False, False),
    "num_sanity_val_steps": (0, True, False),
    "num_nodes": (1, False, False),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flags(args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Flags without their dashes, with their values; None for a flag without a value."""
    for place, arg in enumerate(args):
        if not arg.startswith("-") or _is_number(_plain(arg)):
            continue
        name, equals, value = arg.lstrip("-").partition("=")
        following = args[place + 1] if place + 1 < len(args) else None
        takes_next = following is not None and (not following.startswith("-") or _is_number(_plain(following)))
        yield name.removesuffix("+"), value if equals else (following if takes_next else None)


def _plain(value: str | None) -> Any:
    """A flag's value as parsed by YAML; None if it is not a scalar."""
    try:
        content = None if value is None or is_inline(value) else yaml.safe_load(value)
    except yaml.YAMLError:
        return None
    return None if isinstance(content, list) else content


def _content(value: str | None) -> Any:
    """The value of a section's flag: an inline config, or the name of a file."""
    if value is None or not (is_inline(value) or value.startswith("[")):
        return value
    try:
        check_yaml(value)
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"'{value[:40]}'{describe_yaml_error(error)}") from error


def _check_config(value: str | None) -> None:
    if value is None:
        raise UserError("--config: give a file or the name of a shipped config")
    content, path = _content(value), Path()
    if isinstance(content, str):
        path = Path(value)
        # a pipe, such as <(...) in a shell, can be read only once
        is_pipe = path.exists() and not path.is_file() and not path.is_dir()
        content = {} if is_pipe else current_config(read_config(path))
    if not isinstance(content, dict):
        raise UserError(f"--config {value}: expected 'name: value' lines, found a {type(content).__name__}")
    for section in SECTIONS.keys() & content.keys():
        place = f"config '{path}': {section}" if path.name else f"--config: {section}"
        _check_section(content[section], section, place, path.parent)
    if "seed_everything" in content:
        check_number("seed_everything", content["seed_everything"])


def _check_section(content: Any, section: str, place: str, folder: Path) -> None:
    if isinstance(content, str):
        content = read_config(folder / content)
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise UserError(f"{place}: expected 'name: value' lines or the name of a YAML file, found {found}")
    _check_names(content, section, f"{place}: ")


def _check_names(content: Mapping[str, Any], section: str, place: str) -> None:
    known = _arguments(SECTIONS[section])
    for name in content:
        first = name.partition(".")[0].removesuffix("+")
        if first not in known and first != "help":
            near = difflib.get_close_matches(first, known, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(sorted(known))}"
            raise UserError(f"{place}{name}: unknown argument; {advice}")


@cache
def _arguments(class_path: str) -> frozenset[str]:
    """Names of a class's constructor arguments, read from its source because importing it takes seconds."""
    module, _, name = class_path.rpartition(".")
    package, *inner = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    tree = ast.parse(Path(spec.origin).parent.joinpath(*inner).with_suffix(".py").read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    (init,) = (node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return frozenset(arg.arg for arg in (*init.args.args, *init.args.kwonlyargs)) - {"self"}
