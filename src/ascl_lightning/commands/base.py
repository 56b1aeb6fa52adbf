"""Base classes of the commands that Lightning does not have: they read the same configs as `ascl fit`."""

from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer

from ascl_lightning.cli import AsclCLI, OneLineParser
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.runtime.processes import StopSignals
from ascl_lightning.training.callbacks.checkpoint_io import AtomicCheckpointIO
from ascl_lightning.training.config_changes import warn_of_changes


class _ExitOnSignal(Callback):
    """Lets a stop signal end the command; Lightning's handler of SIGTERM, set after `setup`, lets it run to its end."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's handler."""
        StopSignals().listen()

    on_validation_start = on_predict_start


class CommandCLI(AsclCLI):
    """Builds model, data and trainer of a config without running a trainer method.

    The first line of a subclass's docstring is the description in its `--help`.

    Args:
        args: The command line, beginning with the command's name.
    """

    def __init__(self, args: Sequence[str]) -> None:
        about = {"prog": f"ascl {args[0]}", "description": str(type(self).__doc__).partition("\n")[0]}
        super().__init__(args[1:], run=False, parser_kwargs=about)

    def warn_of_changes(self, checkpoint: str) -> None:
        """Warns if the model has settings other than those it was trained with."""
        warn_of_changes(checkpoint, yaml.safe_load(self.parser.dump(self.config, skip_unset=False)))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer with devices, precision and atomic checkpoints, but without training callbacks and loggers."""
        config = self._get(self.config_init, "trainer")
        fixed = {"callbacks": _ExitOnSignal(), "logger": False, "plugins": AtomicCheckpointIO()}
        return Trainer(**vars(config.clone(with_meta=False)) | fixed | kwargs)


class DataCLI(CommandCLI):
    """Builds only the data module; no tower is loaded."""

    def instantiate_classes(self) -> None:
        """Builds the data module."""
        parser = OneLineParser(prog="ascl")
        parser.add_class_arguments(RetrievalDataModule, "data", skip={"image_spec", "text_spec"})
        self.datamodule: RetrievalDataModule = parser.instantiate(Namespace(data=self.config.data)).data
