"""Finds settings that differ between a run and the training that its checkpoint comes from."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning_utilities.core.rank_zero import rank_zero_warn

from ascl_lightning.errors import UserError
from ascl_lightning.renamed import current_config
from ascl_lightning.runtime.config_files import CONFIG
from ascl_lightning.runtime.files import write_file

CHANGES = "config_changes.json"
"""Settings that a continued training changed, in the same folders."""
_TRAINING = ("data", "model", "seed_everything")
# settings that only affect evaluation
_EVALUATION = ("model.fold_size",)


@dataclass(frozen=True)
class Change:
    """A setting whose value changed.

    Args:
        setting: Dotted name, as on the command line.
        before: Value in the earlier training.
        now: Value in this run.
    """

    setting: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.setting} {self.before} -> {self.now}"


def config_behind(checkpoint: str | Path | None) -> Path | None:
    """The config file of a checkpoint or exported weights; None if there is none in their folder or its parent."""
    if checkpoint is None:
        return None
    folder = Path(checkpoint).parent
    return next((path for path in (folder / CONFIG, folder.parent / CONFIG) if path.is_file()), None)


def changes_of_training(before: Path, now: dict[str, Any]) -> list[Change]:
    """Changes of model, data and seed in a training that continues another one.

    Args:
        before: Configuration of the earlier training.
        now: Configuration of this one.
    """
    earlier = _read(before)
    return [change for part in _TRAINING for change in _compare(earlier.get(part), now.get(part), part)]


def changes_of_evaluation(before: Path, now: dict[str, Any]) -> list[Change]:
    """Changes of the model in an evaluation; its data may differ from the training's.

    Args:
        before: Configuration of the training.
        now: Configuration of the evaluation.
    """
    changes = _compare(_read(before).get("model"), now.get("model"), "model")
    return [change for change in changes if change.setting not in _EVALUATION]


def warn_of_changes(checkpoint: str | Path | None, now: dict[str, Any]) -> None:
    """Warns if the model is evaluated with settings other than those it was trained with.

    Args:
        checkpoint: Path of a checkpoint or of exported weights.
        now: Configuration of the evaluation.
    """
    before = config_behind(checkpoint)
    if before is not None:
        warn_of(changes_of_evaluation(before, now), before, "the model runs")


def warn_of(changes: list[Change], before: Path, what: str) -> None:
    """Warns once of all changes, if there are any."""
    if changes:
        listed = ", ".join(map(str, changes))
        rank_zero_warn(f"{what} with another configuration: {listed} (before: '{before}')")


def write_changes(run: Path, earlier: Path, changes: list[Change]) -> None:
    """Writes the changes of a continued training after those of the earlier training.

    Args:
        run: Folder of the continued training.
        earlier: Folder of the earlier training; the same folder after `--resume`.
        changes: From `changes_of_training`.
    """
    every = [*read_changes(earlier), *(asdict(change) for change in changes)]
    if every:
        write_file(run / CHANGES, json.dumps(every, indent=2) + "\n")


def read_changes(run: Path) -> list[dict[str, Any]]:
    """Reads the changes that `write_changes` wrote; empty if there are none."""
    path = run / CHANGES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the configuration '{path}' of the checkpoint: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"the configuration '{path}' of the checkpoint is empty: restore or remove it")
    return current_config(config)


def _compare(before: Any, now: Any, name: str) -> Iterator[Change]:
    """Differences of settings that both have; settings that only one has come from another version of this package."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield Change(name, before, now)
    elif _class_of(before) != _class_of(now):
        yield Change(name, before.get("class_path"), now.get("class_path"))
    else:
        for key in sorted((before.keys() & now.keys()) - {"class_path"}):
            # the command line omits `init_args` from names
            yield from _compare(before[key], now[key], name if key == "init_args" else f"{name}.{key}")


def _class_of(settings: dict[str, Any]) -> tuple[str, str]:
    """Top package and class name: modules inside a package may have been renamed since."""
    class_path = str(settings.get("class_path"))
    return class_path.partition(".")[0], class_path.rpartition(".")[2]
