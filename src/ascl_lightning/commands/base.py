"""What commands of our own share: they read the configs of training and do something else with them."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from ascl_lightning.cli import AsclCLI, OneLineParser
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.training.callbacks.checkpoint_io import AtomicCheckpointIO


class CommandCLI(AsclCLI):
    """Builds what a config describes, and runs nothing."""

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(args, run=False)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Neither callbacks of training nor a logger: only devices, precision, progress and safe files."""
        config = self._get(self.config_init, "trainer")
        fixed = {"callbacks": None, "logger": False, "plugins": AtomicCheckpointIO()}
        return Trainer(**vars(config.clone(with_meta=False)) | fixed | kwargs)


class DataCLI(CommandCLI):
    """Builds the data module alone: no tower is loaded."""

    def instantiate_classes(self) -> None:
        """Of the whole experiment, the data module."""
        parser = OneLineParser(prog="ascl")
        parser.add_class_arguments(RetrievalDataModule, "data", skip={"image_spec", "text_spec"})
        self.datamodule: RetrievalDataModule = parser.instantiate(Namespace(data=self.config.data)).data
