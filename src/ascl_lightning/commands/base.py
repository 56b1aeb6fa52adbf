"""Shared by the commands that read the configs of training but run none of Lightning's commands."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from ascl_lightning.cli import AsclCLI, OneLineParser
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.training.callbacks.checkpoint_io import AtomicCheckpointIO


class CommandCLI(AsclCLI):
    """Builds the trainer, the model and the data module of a config, and runs nothing.

    Args:
        args: The command's name and its flags.
    """

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(args[1:], run=False, parser_kwargs={"prog": f"ascl {args[0]}"})

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer of the config, without its callbacks and loggers."""
        config = self._get(self.config_init, "trainer")
        fixed = {"callbacks": None, "logger": False, "plugins": AtomicCheckpointIO()}
        return Trainer(**vars(config.clone(with_meta=False)) | fixed | kwargs)


class DataCLI(CommandCLI):
    """Builds the data module alone: no tower is loaded."""

    def instantiate_classes(self) -> None:
        """Builds the data module only."""
        parser = OneLineParser(prog="ascl")
        parser.add_class_arguments(RetrievalDataModule, "data", skip={"image_spec", "text_spec"})
        self.datamodule: RetrievalDataModule = parser.instantiate(Namespace(data=self.config.data)).data
