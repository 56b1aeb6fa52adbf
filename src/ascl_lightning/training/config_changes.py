"""Differences between the configuration of a run and that of the training behind its checkpoint."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ascl_lightning.errors import UserError
from ascl_lightning.renamed import current_config
from ascl_lightning.runtime.files import write_file

CONFIG = "config.yaml"
"""The whole configuration of a run, in its folder and beside exported weights."""
CHANGES = "config_changes.json"
"""What a continued training changed, in the same places."""
_TRAINING = ("data", "model", "seed_everything")
# choices of an evaluation, which the training does not make
_EVALUATION = ("model.fold_size",)


@dataclass(frozen=True)
class Change:
    """A setting that has another value than before.

    Args:
        setting: Its name with dots, as on the command line.
        before: Value in the training behind the checkpoint.
        now: Value in this run.
    """

    setting: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.setting} {self.before} -> {self.now}"


def config_behind(checkpoint: str | Path | None) -> Path | None:
    """The configuration that made a checkpoint or exported weights; None if it does not lie with them."""
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
    """Changes of the model in an evaluation; other data are what an evaluation may choose.

    Args:
        before: Configuration of the training.
        now: Configuration of the evaluation.
    """
    changes = _compare(_read(before).get("model"), now.get("model"), "model")
    return [change for change in changes if change.setting not in _EVALUATION]


def write_changes(run: Path, earlier: Path, changes: list[Change]) -> None:
    """Adds the changes of a continued training to those that the training before it had.

    Args:
        run: Folder of the continued training.
        earlier: Folder of the training before; the same one after `--resume`.
        changes: Of `changes_of_training`.
    """
    every = [*read_changes(earlier), *(asdict(change) for change in changes)]
    if every:
        write_file(run / CHANGES, json.dumps(every, indent=2) + "\n")


def read_changes(run: Path) -> list[dict[str, Any]]:
    """What `write_changes` left in the folder of a training; empty for one that changed nothing."""
    path = run / CHANGES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the configuration '{path}' of the checkpoint: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"the configuration '{path}' of the checkpoint holds no settings: restore or remove it")
    return current_config(config)


def _compare(before: Any, now: Any, name: str) -> Iterator[Change]:
    """Differences of settings that both have; settings of another version of this package are none."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield Change(name, before, now)
    elif _class_of(before) != _class_of(now):
        yield Change(name, before.get("class_path"), now.get("class_path"))
    else:
        for key in sorted((before.keys() & now.keys()) - {"class_path"}):
            # as on the command line, which leaves `init_args` out
            yield from _compare(before[key], now[key], name if key == "init_args" else f"{name}.{key}")


def _class_of(settings: dict[str, Any]) -> tuple[str, str]:
    """Top package and class name: modules inside a package may have been renamed since."""
    class_path = str(settings.get("class_path"))
    return class_path.partition(".")[0], class_path.rpartition(".")[2]
