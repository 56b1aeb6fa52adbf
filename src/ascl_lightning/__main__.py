"""The `ascl` command: answers at once what needs no library, and imports the rest only for a command that runs."""

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module

from ascl_lightning import __version__
from ascl_lightning.errors import UserError
from ascl_lightning.parsing.early_checks import check_command_line
from ascl_lightning.runtime.config_files import with_config_paths
from ascl_lightning.runtime.processes import USER_ERROR, end_hung_launcher, end_with_launcher, report_once

# command: (module that runs it, line of help)
COMMANDS = {
    "fit": ("ascl_lightning.cli", "train; validates each epoch and keeps the checkpoint with the best val/rsum"),
    "validate": ("ascl_lightning.cli", "metrics of a checkpoint on the validation split"),
    "test": (
        "ascl_lightning.cli",
        "metrics of a checkpoint on the test split, as a table, files and a page",
    ),
    "predict": ("ascl_lightning.cli", "embeddings of the test split's images and texts, as files"),
    "extract": (
        "ascl_lightning.commands.extract",
        "run the towers over the data once and keep their features, to train and test from",
    ),
    "check": (
        "ascl_lightning.commands.check",
        "read all images and captions once, and report what would end or falsify training",
    ),
    "interpolate": (
        "ascl_lightning.commands.interpolate",
        "validate between the pretrained and the fine-tuned weights (WiSE-FT) and keep the best",
    ),
    "triage": (
        "ascl_lightning.commands.triage",
        "flag training pairs whose caption says too much, too little or something else than the picture",
    ),
    "report": (
        "ascl_lightning.commands.report",
        "write one page of what a test or a validation left in its folder",
    ),
    "compare": (
        "ascl_lightning.commands.compare",
        "differences between two runs of `ascl test` on the same data, with intervals and p-values",
    ),
    "summarize": (
        "ascl_lightning.commands.summarize",
        "mean, standard deviation and interval of every figure over runs with several seeds",
    ),
    "dashboard": ("ascl_lightning.commands.dashboard", "lay out what runs log in a W&B project, as a view of it"),
    "advise": (
        "ascl_lightning.commands.advise",
        "look a query up, and say which of its words no candidate supports",
    ),
    "samples": ("ascl_lightning.commands.samples", "print captions with the T+ and T- that training would see"),
}

CONFIGURED = {"fit", "validate", "test", "predict", "extract", "check", "interpolate", "triage", "advise", "samples"}
"""Commands that read the configs of training."""

_EPILOG = """\
Every command takes --config after its name, a file or a shipped config's name, and flags that override it:
  ascl fit --config scenes --trainer.max_epochs 5
  ascl test --config scenes --ckpt_path best
`ascl COMMAND --help` lists all of them; `ascl COMMAND --config FILE --print_config` shows what would run.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ascl",
        description="Train, evaluate and use image-text retrieval with asymmetry-sensitive contrastive learning.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ascl-lightning {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, description) in COMMANDS.items():
        # the command's own parser shows its help: it knows all flags, and takes seconds to import
        commands.add_parser(name, help=description, add_help=False)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        args: Command line without the program's name; None: that of this process.

    Returns:
        What the command's `run` gives, 0 for None; 2 after a mistake of the user, which is printed as one line.

    Raises:
        SystemExit: After --help, --version, or a command that does not exist (code 2).
    """
    args = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # captions and tables hold characters that an ASCII terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    command = _parser().parse_args(args[:1]).command
    end_with_launcher()
    try:
        # before the import, which takes seconds
        args = with_config_paths(args)
        if command in CONFIGURED:
            check_command_line(args)
        return import_module(COMMANDS[command][0]).run(args) or 0
    except UserError as error:
        report_once(f"ascl: error: {' '.join(str(error).split())}")
        return USER_ERROR
    except Exception:
        end_hung_launcher()
        raise


if __name__ == "__main__":
    sys.exit(main())
