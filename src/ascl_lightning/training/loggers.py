"""Where metrics and configuration go: the run's folder, however often the run was interrupted, and beside it
TensorBoard, or W&B, if it answers.
"""  # noqa: D205

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn

from ascl_lightning.runtime.checkpoints import Continuation
from ascl_lightning.runtime.files import write_file
from ascl_lightning.training.config_changes import (
    CONFIG,
    changes_of_evaluation,
    changes_of_training,
    config_behind,
    write_changes,
)

_SECONDS_TO_ANSWER = 5


class LogConfig(SaveConfigCallback):
    """Keeps the whole configuration: as `config.yaml` beside the run's CSV metrics, as hyperparameters elsewhere.

    Lightning's own would overwrite one file, or fail, where a logger has no folder for each run.
    """

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Called once, on rank 0; warns of settings that differ from those behind the checkpoint."""
        text = self.parser.dump(self.config, skip_unset=False)
        config = yaml.safe_load(text)
        folders = [Path(logger.log_dir) for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        _note_changes(trainer, config, folders)
        for folder in folders:
            write_file(folder / CONFIG, text)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams(config)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Notes what a resumed run goes on with."""
        others = [logger for logger in trainer.loggers if not isinstance(logger, CSVLogger)]
        checkpoint["log_versions"] = {type(logger).__name__: logger.version for logger in others}


def loggers_of_run(
    configured: Logger | Iterable[Logger] | bool | None, root: Path, command: str, going_on: Continuation | None
) -> list[Logger] | bool:
    """What `Trainer` takes: the configured loggers, after one that writes CSV into a new folder for each run.

    Args:
        configured: Of the config; None: not said. A CSV logger among them takes the place of ours.
        root: The `default_root_dir`; loggers without a `save_dir` of their own write below it too.
        command: Names the folder under it.
        going_on: The run whose folder and CSV file are gone on with, and what else logged it.
    """
    if isinstance(configured, bool):
        return configured
    loggers = [configured] if isinstance(configured, Logger) else list(configured or [])
    if not any(isinstance(logger, CSVLogger) for logger in loggers):
        loggers.insert(0, CSVLogger(root, name=command))
    for logger in loggers:
        _place(logger, root)
    return loggers if going_on is None else [_continued(logger, going_on) for logger in loggers]


def _place(logger: Logger, root: Path) -> None:
    """Lets a logger whose `save_dir` is the current folder, as by default, write below the root."""
    if isinstance(logger, WandbLogger) and logger._save_dir in (None, "."):
        logger._save_dir = logger._wandb_init["dir"] = str(root)
    elif isinstance(logger, TensorBoardLogger) and logger._root_dir == ".":
        logger._root_dir = str(root)


def _continued(logger: Logger, going_on: Continuation) -> Logger:
    """A logger that goes on where a checkpoint was saved, if it logged the run then."""
    version = going_on.log_versions.get(type(logger).__name__)
    if isinstance(logger, CSVLogger):
        return ContinuedCSVLogger(going_on)
    if isinstance(logger, WandbLogger) and logger.version is None and version is not None:
        # offline, `wandb sync --append` joins what was recorded before and after
        logger._id = logger._wandb_init["id"] = str(version)
    if isinstance(logger, TensorBoardLogger) and version is not None:
        logger._version = version
        # what was written of later steps than the checkpoint holds is not shown
        logger._kwargs["purge_step"] = going_on.logged_steps
    return logger


class ContinuedCSVLogger(CSVLogger):
    """Goes on with the `metrics.csv` of a run; Lightning's own deletes what it finds.

    Args:
        going_on: The run, and the checkpoint; rows of later steps than it holds are dropped, as they come anew.
    """

    def __init__(self, going_on: Continuation) -> None:
        run = going_on.run
        super().__init__(str(run.parents[1]), name=run.parent.name, version=run.name)
        self._logged_steps = going_on.logged_steps

    @property
    @rank_zero_only
    def experiment(self) -> ExperimentWriter:
        """What writes the file."""
        if self._experiment is None:
            self._experiment = _ContinuedWriter(self.log_dir, self._logged_steps)
        return self._experiment  # type: ignore[return-value]


class _ContinuedWriter(ExperimentWriter):
    def __init__(self, log_dir: str, logged_steps: int) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                rows = csv.DictReader(file)
                kept = [row for row in rows if int(row["step"]) < logged_steps]
            self.metrics_keys = list(rows.fieldnames or [])
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, self.metrics_keys)
            writer.writeheader()
            writer.writerows(kept)
            write_file(path, text.getvalue())

    def _check_log_dir_exists(self) -> None:
        """Deletes nothing."""


@rank_zero_only
def record_offline_if_unreachable(loggers: Sequence[Logger]) -> None:
    """Lets W&B record to disk if its server does not answer, before it is started.

    It would try for a minute and a half and end the training, or spoil a recording that is begun then (wandb#9865).
    """
    online = [logger for logger in loggers if isinstance(logger, WandbLogger) and not logger._offline]
    if not online or "WANDB_MODE" in os.environ:
        return
    import wandb

    address = wandb.setup().settings.base_url
    try:
        urlopen(address, timeout=_SECONDS_TO_ANSWER).close()
    except HTTPError:
        return  # an answer all the same
    except OSError:
        for logger in online:
            logger._wandb_init["mode"] = "offline"
        rank_zero_warn(f"W&B at {address} does not answer: it records offline, `wandb sync` sends it later")


@rank_zero_only
def keep_pictures_with_runs(loggers: Sequence[Logger]) -> None:
    """Has W&B put pictures and tables beside its records, where `wandb sync` finds them, not into the home folder."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            os.environ.setdefault("WANDB_DATA_DIR", str(Path(logger.save_dir or ".", "wandb").absolute()))


def _note_changes(trainer: Trainer, config: dict[str, Any], folders: list[Path]) -> None:
    """Warns of changes; those of a training are written to the run's folders."""
    trains = trainer.state.fn == TrainerFn.FITTING
    resumed = [folder / CONFIG for folder in folders if trains and (folder / CONFIG).is_file()]
    before = next(iter(resumed), config_behind(config.get("ckpt_path")))
    if before is None:
        return
    changes = (changes_of_training if trains else changes_of_evaluation)(before, config)
    for folder in folders if trains else ():
        write_changes(folder, before.parent, changes)
    if changes:
        what = "training continues" if trains else "the model runs"
        listed = ", ".join(map(str, changes))
        rank_zero_warn(f"{what} with another configuration: {listed} (before: '{before}')")
