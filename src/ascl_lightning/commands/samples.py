"""`ascl samples`: what training would see of some captions."""

from collections.abc import Sequence

import numpy as np
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascl_lightning.cli import AsclCLI, OneLineParser
from ascl_lightning.data.asymmetry import TextContext
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.samplers import PairIndex


class SamplesCLI(AsclCLI):
    """Reads the same configs as the other commands and builds the data module alone: no tower is loaded."""

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(args, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own flags."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--count", type=int, default=8, help="Captions to show.")
        parser.add_argument("--epoch", type=int, default=0, help="Epoch whose draws to show.")

    def instantiate_classes(self) -> None:
        """Of the whole experiment, the data module."""
        parser = OneLineParser(prog="ascl samples")
        parser.add_class_arguments(RetrievalDataModule, "data", skip={"image_spec", "text_spec"})
        self.datamodule: RetrievalDataModule = parser.instantiate(Namespace(data=self.config.data)).data


def samples_table(datamodule: RetrievalDataModule, count: int, epoch: int, seed: int) -> Table:
    """T, T+, T- and (T+)- of captions drawn from the training split, with the operations that made them."""
    captions = datamodule.read("train").captions
    vocabulary = datamodule.mine_vocabulary()
    pairs = PairIndex([len(of_image) for of_image in captions], None, seed)
    table = Table("T", "T+", "T-", "(T+)-", title="Training samples", show_lines=True)
    for index in np.random.default_rng([seed, epoch]).permutation(len(pairs))[:count].tolist():
        image, caption = pairs.pair(index, epoch)
        context = TextContext(captions[image], vocabulary)
        sample = datamodule.asymmetry.sample(captions[image][caption], context, seed=seed, epoch=epoch, index=index)
        table.add_row(
            Text(sample.text),
            _cell(sample.positive, sample.positive_operation),
            _cell(sample.negative, sample.negative_operation),
            _cell(sample.positive_negative, sample.positive_negative_operation),
        )
    return table


def _cell(text: str | None, operation: str | None) -> Text:
    """A made text under the name of its operation."""
    if text is None:
        return Text("none configured", style="dim")
    return Text.assemble((operation or "no operation changes it: masked", "dim"), "\n", text)


def run(args: Sequence[str]) -> None:
    """Prints the samples.

    Args:
        args: The command line, `samples` first.
    """
    cli = SamplesCLI(args[1:])
    Console().print(samples_table(cli.datamodule, cli.config.count, cli.config.epoch, cli.config.data.seed))
