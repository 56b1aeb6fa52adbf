"""Loggers of a run: CSV in the run folder, which a resumed run appends to, and TensorBoard or W&B if configured."""

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
from ascl_lightning.runtime.config_files import CONFIG
from ascl_lightning.runtime.files import write_file
from ascl_lightning.training.config_changes import (
    changes_of_training,
    config_behind,
    warn_of,
    warn_of_changes,
    write_changes,
)

_SECONDS_TO_ANSWER = 5


class LogConfig(SaveConfigCallback):
    """Saves the whole configuration as `config.yaml` in the run folder, and as hyperparameters of other loggers.

    Lightning's callback overwrites one file, or fails, for loggers without a folder per run.
    """

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Called once, on rank 0; warns about settings that differ from the checkpoint's training."""
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
        """Stores the version of each logger for a resumed run."""
        others = [logger for logger in trainer.loggers if not isinstance(logger, CSVLogger)]
        checkpoint["log_versions"] = {type(logger).__name__: logger.version for logger in others}


def loggers_of_run(
    configured: Logger | Iterable[Logger] | bool | None, root: Path, command: str, resumed: Continuation | None
) -> list[Logger] | bool:
    """The `logger` argument of the trainer: a CSV logger with a folder per run, then the configured loggers.

    Args:
        configured: Loggers of the config; None if it sets none. A CSV logger among them replaces the default one.
        root: The `default_root_dir`; loggers without their own `save_dir` also write below it.
        command: Name of the folder below `root`.
        resumed: The run to resume, whose folder and loggers are continued.
    """
    if isinstance(configured, bool):
        return configured
    loggers = [configured] if isinstance(configured, Logger) else list(configured or [])
    if not any(isinstance(logger, CSVLogger) for logger in loggers):
        loggers.insert(0, CSVLogger(root, name=command))
    for logger in loggers:
        _place(logger, root)
    return loggers if resumed is None else [_continued(logger, resumed) for logger in loggers]


def _place(logger: Logger, root: Path) -> None:
    """Makes a logger with the default `save_dir` (the current folder) write below the root."""
    if isinstance(logger, WandbLogger) and logger._save_dir in (None, "."):
        logger._save_dir = logger._wandb_init["dir"] = str(root)
    elif isinstance(logger, TensorBoardLogger) and logger._root_dir == ".":
        logger._root_dir = str(root)


def _continued(logger: Logger, resumed: Continuation) -> Logger:
    """The logger, set to continue the interrupted run if it logged that run."""
    version = resumed.log_versions.get(type(logger).__name__)
    if isinstance(logger, CSVLogger):
        return ContinuedCSVLogger(resumed)
    if isinstance(logger, WandbLogger) and logger.version is None and version is not None:
        # offline, `wandb sync --append` joins the records before and after the interruption
        logger._id = logger._wandb_init["id"] = str(version)
    if isinstance(logger, TensorBoardLogger) and version is not None:
        logger._version = version
        # hides steps after the checkpoint
        logger._kwargs["purge_step"] = resumed.logged_steps
    return logger


class ContinuedCSVLogger(CSVLogger):
    """Appends to the `metrics.csv` of a run; Lightning's logger would delete it.

    Args:
        resumed: The run to resume. Rows of steps after its checkpoint are dropped, since those steps run again.
    """

    def __init__(self, resumed: Continuation) -> None:
        run = resumed.run
        super().__init__(str(run.parents[1]), name=run.parent.name, version=run.name)
        self._logged_steps = resumed.logged_steps

    @property
    @rank_zero_only
    def experiment(self) -> ExperimentWriter:
        """The writer of the file."""
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
        """Lightning's method would delete the file."""


@rank_zero_only
def record_offline_if_unreachable(loggers: Sequence[Logger]) -> None:
    """Switches W&B to offline mode before it starts if its server does not answer.

    W&B would retry for 90 seconds and end the training, or damage a record that starts meanwhile (wandb#9865).
    """
    online = [logger for logger in loggers if isinstance(logger, WandbLogger) and not logger._offline]
    if not online or "WANDB_MODE" in os.environ:
        return
    import wandb

    address = wandb.setup().settings.base_url
    try:
        urlopen(address, timeout=_SECONDS_TO_ANSWER).close()
    except HTTPError:
        return  # the server is reachable
    except OSError:
        for logger in online:
            logger._wandb_init["mode"] = "offline"
        rank_zero_warn(f"W&B at {address} does not answer: recording offline, upload later with `wandb sync`")


@rank_zero_only
def keep_pictures_with_runs(loggers: Sequence[Logger]) -> None:
    """Makes W&B store images and tables next to its records, where `wandb sync` finds them, not in the home folder."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            os.environ.setdefault("WANDB_DATA_DIR", str(Path(logger.save_dir or ".", "wandb").absolute()))


def _note_changes(trainer: Trainer, config: dict[str, Any], folders: list[Path]) -> None:
    """Warns about changed settings; in training, also writes them to the run folders."""
    if trainer.state.fn != TrainerFn.FITTING:
        warn_of_changes(config.get("ckpt_path"), config)
        return
    resumed = [folder / CONFIG for folder in folders if (folder / CONFIG).is_file()]
    before = next(iter(resumed), config_behind(config.get("ckpt_path")))
    if before is None:
        return
    changes = changes_of_training(before, config)
    for folder in folders:
        write_changes(folder, before.parent, changes)
    warn_of(changes, before, "training continues")
