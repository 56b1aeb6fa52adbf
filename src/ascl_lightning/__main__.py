"""The `ascl` command. It checks flags and configs first, and imports PyTorch only for a command that runs."""

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

# command: (module with its `run` function, description)
COMMANDS = {
    "fit": ("ascl_lightning.cli", "train, validate after each epoch, and keep the checkpoint with the best val/rsum"),
    "validate": ("ascl_lightning.cli", "evaluate a checkpoint on the validation split"),
    "test": ("ascl_lightning.cli", "evaluate a checkpoint on the test split: a table, files and an HTML report"),
    "predict": ("ascl_lightning.cli", "write the embeddings of the test split's images and texts"),
    "extract": (
        "ascl_lightning.commands.extract",
        "run the towers over the data once and store their features, to train and test on",
    ),
    "check": (
        "ascl_lightning.commands.check",
        "read all images and captions, and report faults that would stop or bias training",
    ),
    "interpolate": (
        "ascl_lightning.commands.interpolate",
        "validate interpolations of pretrained and fine-tuned weights (WiSE-FT), and keep the best",
    ),
    "triage": (
        "ascl_lightning.commands.triage",
        "flag training pairs that are mismatched, duplicated, over-long or under-specified",
    ),
    "report": (
        "ascl_lightning.commands.report",
        "write the HTML report of a finished test or validation",
    ),
    "compare": (
        "ascl_lightning.commands.compare",
        "compare two runs of `ascl test` on the same data, with confidence intervals and p-values",
    ),
    "summarize": (
        "ascl_lightning.commands.summarize",
        "mean, standard deviation and confidence interval of each metric over several seeds",
    ),
    "experiment": (
        "ascl_lightning.commands.experiment",
        "run a grid of trainings and validations, and write one document with the results",
    ),
    "dashboard": (
        "ascl_lightning.commands.dashboard",
        "create a saved view of the metrics in a W&B project",
    ),
    "index": ("ascl_lightning.commands.index", "encode the pictures of a folder, so that they can be searched"),
    "search": ("ascl_lightning.commands.search", "find pictures by a sentence, by a picture, or by both"),
    "serve": ("ascl_lightning.commands.serve", "serve a web page and an HTTP API that search a gallery"),
    "export": ("ascl_lightning.commands.export", "write a model as ONNX graphs, which other programs can serve"),
    "samples": ("ascl_lightning.commands.samples", "show training pairs with their T+ and T-"),
}

CONFIGURED = {"fit", "validate", "test", "predict", "extract", "check", "interpolate", "triage", "samples"}
"""Commands that need a training config."""

_EPILOG = """\
Most commands take --config, which is a file or the name of a shipped config, and flags that override it:
  ascl fit --config scenes --trainer.max_epochs 5
  ascl test --config scenes --ckpt_path best
`ascl COMMAND --help` lists the flags; `ascl COMMAND --config FILE --print_config` prints the resulting config.
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
        # the command's own parser, which takes seconds to import, prints its help
        commands.add_parser(name, help=description, add_help=False)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        args: Command line without the program's name. None: the arguments of this process.

    Returns:
        The exit code: that of the command, or 2 after a `UserError`, which is printed as one line.

    Raises:
        SystemExit: After --help, --version, or an unknown command (code 2).
    """
    args = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # captions and tables have characters that ASCII terminals cannot print
        sys.stdout.reconfigure(errors="backslashreplace")
    command = _parser().parse_args(args[:1]).command
    end_with_launcher()
    try:
        # before the slow import
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
