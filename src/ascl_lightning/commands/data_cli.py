"""What the commands share that look at data alone."""

from collections.abc import Sequence

from jsonargparse import Namespace

from ascl_lightning.cli import AsclCLI, OneLineParser
from ascl_lightning.data.datamodule import RetrievalDataModule


class DataCLI(AsclCLI):
    """Reads the same configs as the other commands and builds the data module alone: no tower is loaded."""

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(args, run=False)

    def instantiate_classes(self) -> None:
        """Of the whole experiment, the data module."""
        parser = OneLineParser(prog="ascl")
        parser.add_class_arguments(RetrievalDataModule, "data", skip={"image_spec", "text_spec"})
        self.datamodule: RetrievalDataModule = parser.instantiate(Namespace(data=self.config.data)).data
