"""`ascl advise`: the best pictures for a query, and which of its words none of them supports."""

from collections.abc import Sequence

from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascl_lightning.commands.trained import TrainedCLI
from ascl_lightning.runtime.number_types import PositiveInt
from ascl_lightning.search.advice import Advice, Adviser


class AdviseCLI(TrainedCLI):
    """Reads the same configs as training."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own flags."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--query", type=str, required=True, help="What to look for.")
        parser.add_argument(
            "--split", type=str, default="val", help="Split to look in; its captions tell what support is usual."
        )
        parser.add_argument("--candidates", type=PositiveInt, default=10, help="Pictures to show and to look at.")


def candidates_table(advice: Advice, image_ids: Sequence[str]) -> Table:
    """Candidates, the best first."""
    table = Table("Rank", "Image", "Score")
    for rank, (image, score) in enumerate(zip(advice.images, advice.scores, strict=True), start=1):
        table.add_row(str(rank), Text(image_ids[image]), f"{score:.3f}")
    return table


def words_table(advice: Advice) -> Table:
    """The words of a query, with the highest support in any candidate."""
    table = Table("Word", "Highest support", "")
    for word in advice.words:
        said = "" if word.is_supported else "no candidate supports it" if word.is_known else "the model never saw it"
        table.add_row(Text(word.word), f"{word.support:.3f}", said)
    return table


def run(args: Sequence[str]) -> None:
    """Looks a query up.

    Args:
        args: The command line, `advise` first.
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
    console.print(Text(f"No candidate supports: {missing}" if missing else "Every word has support in a candidate"))
