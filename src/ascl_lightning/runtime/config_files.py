"""Finds the configs that come with the package by name, so that `ascl fit --config scenes` works in any folder."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ascl_lightning.errors import UserError

_PACKAGE = Path(__file__).parents[1]
# the wheel has them inside the package, a clone beside `src`
SHIPPED = next(path for path in (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs") if path.is_dir())
"""The folder of the shipped configs."""

# a config itself in the place of a file's name
_INLINE = re.compile(r"[{:\n]")


def shipped_configs() -> list[str]:
    """Names that `--config` takes: experiments, then what can be added to one with a second `--config`."""
    experiments = sorted(path.stem for path in SHIPPED.glob("*.yaml") if path.stem != "sweep")  # a sweep is W&B's
    additions = (path for folder in ("callbacks", "logger") for path in SHIPPED.glob(f"{folder}/*.yaml"))
    return [*experiments, *sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in additions)]


def find_config(name: str | Path) -> Path:
    """Path of a config.

    Args:
        name: A file, or the name of a shipped config: its path below `configs/` without `.yaml`. An existing file wins.

    Returns:
        The file.

    Raises:
        UserError: If there is neither such a file nor such a shipped config.
    """
    path = Path(name)
    # a pipe is fine: the shell's <(...)
    if path.exists() and not path.is_dir():
        return path
    shipped = {file.relative_to(SHIPPED).with_suffix(""): file for file in SHIPPED.rglob("*.yaml")}
    if path not in shipped:
        raise UserError(f"no config file '{name}', and no shipped config of that name: {', '.join(shipped_configs())}")
    return shipped[path]


def with_config_paths(args: Sequence[str]) -> list[str]:
    """A command line with the name of each shipped config replaced by its path.

    Raises:
        UserError: If a `--config` is neither a file nor the name of a shipped config.
    """
    return list(_with_config_paths(args))


def _with_config_paths(args: Sequence[str]) -> Iterator[str]:
    expected = False
    for arg in args:
        flag, equals, value = arg.partition("=")
        if expected:
            yield _path(arg)
        elif equals and flag in ("-c", "--config"):
            yield f"{flag}={_path(value)}"
        else:
            yield arg
        expected = not expected and arg in ("-c", "--config")


def _path(value: str) -> str:
    return value if is_inline(value) else str(find_config(value))


def is_inline(value: str) -> bool:
    """Whether a value is itself a config, and not a file's name."""
    return _INLINE.search(value) is not None
