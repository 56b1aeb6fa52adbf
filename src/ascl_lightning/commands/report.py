"""`ascl report`: one page of a run, from the files that a test or a validation left in its folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ascl_lightning.evaluation.page.page import write_report


def run(args: Sequence[str]) -> None:
    """Writes `report.html` into the folder of a run.

    Args:
        args: The command line, `report` first.

    Raises:
        UserError: If it is no folder of a test or a validation, or a file of it cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="ascl report", description="Write one self-contained page, report.html, into the folder of a run."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of `ascl test` or `ascl validate`")
    page = write_report(parser.parse_args(args[1:]).run)
    Console().print(f"Report: {page}", soft_wrap=True)
