"""`ascl samples`: show training pairs with their T+ and T-, and each operation applied to one pair."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascl_lightning.commands.base import DataCLI
from ascl_lightning.commands.training_pairs import MadePicture, ShownPair, ShownText, TrainingPairs
from ascl_lightning.data.batch import PixelSpec, TextSpec
from ascl_lightning.data.text import MAX_WORDS
from ascl_lightning.evaluation.page.pictures import thumbnail
from ascl_lightning.runtime.files import require_writable_file, write_file
from ascl_lightning.runtime.number_types import NonNegativeInt, PositiveInt
from ascl_lightning.runtime.templates import render

PIXELS = PixelSpec(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Image spec to use because no image encoder is built."""


class SamplesCLI(DataCLI):
    """Show training pairs with their T+ and T-, and each operation applied to one pair.

    No tower is built; of the model, only its vocabulary size is used.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own flags."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--count", type=PositiveInt, default=8, help="Number of pairs to show.")
        parser.add_argument("--epoch", type=NonNegativeInt, default=0, help="Epoch whose pairs to show.")
        parser.add_argument("--html", type=str | None, default=None, help="HTML file for texts and images.")

    def before_instantiate_classes(self) -> None:
        """Checks that the HTML file can be written."""
        if self.config.html is not None:
            require_writable_file(Path(self.config.html))

    def instantiate_classes(self) -> None:
        """Builds the data module and sets the specs that the towers would provide."""
        super().instantiate_classes()
        self.datamodule.image_spec = PIXELS
        # the texts depend on the model only by the size of its vocabulary
        capacity = self.config.get("model.text_encoder.init_args.vocab_size") or sys.maxsize
        self.datamodule.text_spec = TextSpec(MAX_WORDS, vocab_size=capacity)


def pairs_table(pairs: Sequence[ShownPair]) -> Table:
    """T, T+, T- and (T+)- of training pairs, with their operations."""
    table = Table("T", "T+", "T-", "(T+)-", title="Training samples", show_lines=True)
    for pair in pairs:
        image, operation = pair.origin.image_id, pair.image_operation
        picture = image if operation is None else f"{image}, {operation.name} ({operation.type})"
        table.add_row(_cell(picture, pair.text), *(_cell(made.made_by, made.text) for made in pair.made))
    return table


def operations_table(texts: Sequence[ShownText], pictures: Sequence[MadePicture], caption: str) -> Table:
    """The result of each configured operation for one caption and one image."""
    table = Table("Operation", "Type", "Result", title=Text(f"Each operation on: {caption}"), show_lines=True)
    for made in texts:
        table.add_row(
            Text(made.label), made.type, Text(made.made.text if made.made and made.made.valid else "unchanged")
        )
    for of in pictures:
        sizes = "{} x {} pixels become {} x {}".format(*of.source.size, *of.picture.size)
        table.add_row(Text(str(of.operation)), of.operation.type, sizes)
    return table


def _cell(heading: str, text: str | None) -> Text:
    return Text.assemble((heading, "dim"), "" if text is None else f"\n{text}")


def run(args: Sequence[str]) -> None:
    """Prints the samples and optionally writes them as HTML.

    Args:
        args: The command line, beginning with `samples`.
    """
    cli = SamplesCLI(args)
    count, epoch, html = cli.config.count, cli.config.epoch, cli.config.html
    training = TrainingPairs(cli.datamodule)
    pairs = list(training.first(count, epoch))
    texts = list(training.each_text_operation(pairs[0], epoch))
    pictures = list(training.each_image_operation([pair.picture for pair in pairs if pair.picture], epoch))
    console = Console()
    console.print(pairs_table(pairs))
    console.print(operations_table(texts, pictures, pairs[0].text))
    if html is not None:
        page = render(
            "commands/samples.html.jinja",
            pairs=pairs,
            texts=texts,
            pictures=pictures,
            thumbnail=_thumbnail,
            epoch=epoch,
            seed=cli.datamodule.seed,
        )
        write_file(Path(html), page)
        console.print(f"Samples: {html}", soft_wrap=True)


def _thumbnail(image: Image.Image) -> str:
    return thumbnail(image, PIXELS.size)
