"""`ascl advise`: search a query, and list the words that no retrieved image supports."""

from collections.abc import Sequence

from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascl_lightning.commands.trained import TrainedCLI
from ascl_lightning.runtime.number_types import PositiveInt
from ascl_lightning.search.advice import Advice, Adviser


class AdviseCLI(TrainedCLI):
    """Search a query in a split and list the words that no retrieved image supports."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own flags."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--query", type=str, required=True, help="Text to search for.")
        parser.add_argument(
            "--split", type=str, default="val", help="Split to search. Its captions define the usual support of a word."
        )
        parser.add_argument("--candidates", type=PositiveInt, default=10, help="Number of images to retrieve.")


def candidates_table(advice: Advice, image_ids: Sequence[str]) -> Table:
    """The retrieved images, best first."""
    table = Table("Rank", "Image", "Score")
    for rank, (image, score) in enumerate(zip(advice.images, advice.scores, strict=True), start=1):
        table.add_row(str(rank), Text(image_ids[image]), f"{score:.3f}")
    return table


def words_table(advice: Advice) -> Table:
    """The words of a query, each with its highest support in any retrieved image."""
    table = Table("Word", "Highest support", "")
    for word in advice.words:
        said = "" if word.is_supported else "not supported" if word.is_known else "not in the vocabulary"
        table.add_row(Text(word.word), f"{word.support:.3f}", said)
    return table


def run(args: Sequence[str]) -> None:
    """Searches a query and prints the result.

    Args:
        args: The command line, beginning with `advise`.
    """
    cli = AdviseCLI(args)
    cli.load()
    split = cli.config.split
    gallery, captions = cli.encode(split)
    module, tokenizer = cli.model.eval(), cli.datamodule.tokenizer()
    advice = Adviser(module.model, tokenizer, gallery, captions, cli.config.candidates).advise(cli.config.query)
    if not cli.trainer.is_global_zero:
        return
    console = Console()
    console.print(candidates_table(advice, cli.datamodule.view(split).split.image_ids))
    console.print(words_table(advice))
    missing = ", ".join(advice.unsupported)
    console.print(Text(f"Unsupported words: {missing}" if missing else "Each word is supported by a retrieved image"))
