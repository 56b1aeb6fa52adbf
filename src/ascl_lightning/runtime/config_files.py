"""Finds shipped configs by name, so that `ascl fit --config scenes` works in any folder."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ascl_lightning.errors import UserError

CONFIG = "config.yaml"
"""The whole configuration of a run, in its folder and next to exported weights."""
_PACKAGE = Path(__file__).parents[1]
# inside the package in a wheel, next to `src` in a clone
SHIPPED = next(path for path in (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs") if path.is_dir())
"""The folder of the shipped configs."""

# a config given inline instead of a file name
_INLINE = re.compile(r"[{:\n]")


def shipped_configs() -> list[str]:
    """Names for `--config`: experiments, then additions for a second `--config`."""
    experiments = sorted(path.stem for path in SHIPPED.glob("*.yaml") if path.stem != "sweep")  # a sweep is W&B's
    additions = (
        path for folder in ("baselines", "best", "callbacks", "logger") for path in SHIPPED.glob(f"{folder}/*.yaml")
    )
    return [*experiments, *sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in additions)]


def find_config(name: str | Path) -> Path:
    """Path of a config.

    Args:
        name: A file, or the path of a shipped config below `configs/` without `.yaml`. Existing files take precedence.

    Returns:
        The file.

    Raises:
        UserError: If there is no such file or shipped config.
    """
    path = Path(name)
    # allows pipes, for the shell's <(...)
    if path.exists() and not path.is_dir():
        return path
    shipped = {file.relative_to(SHIPPED).with_suffix(""): file for file in SHIPPED.rglob("*.yaml")}
    if path not in shipped:
        raise UserError(f"no config file '{name}', and no shipped config of that name: {', '.join(shipped_configs())}")
    return shipped[path]


def with_config_paths(args: Sequence[str]) -> list[str]:
    """Replaces names of shipped configs in a command line by their paths.

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
    """Whether a value is an inline config rather than a file name."""
    return _INLINE.search(value) is not None
