"""`ascl report`: write the HTML report of a finished test or validation."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ascl_lightning.evaluation.page.page import write_report


def run(args: Sequence[str]) -> None:
    """Writes `report.html` into the folder of a run.

    Args:
        args: The command line, beginning with `report`.

    Raises:
        UserError: If the folder is not that of a test or validation, or one of its files cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="ascl report", description="Write report.html, a self-contained HTML report, into the folder of a run."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run of `ascl test` or `ascl validate`")
    page = write_report(parser.parse_args(args[1:]).run)
    Console().print(f"Report: {page}", soft_wrap=True)
