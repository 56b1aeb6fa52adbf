"""`ascl summarize`: mean and spread of metrics over runs with different seeds."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascl_lightning.commands.runs import figures, headline_figures, open_runs
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.run_files import RunFiles
from ascl_lightning.evaluation.tables import compact_table
from ascl_lightning.metrics.intervals import Spread, spread
from ascl_lightning.metrics.labels import heading, label

_TOO_FEW = 2
"""Number of runs for which an interval (12.7 standard errors to each side) is uninformative."""


def run(args: Sequence[str]) -> None:
    """Prints mean, standard deviation and confidence interval of each metric that all runs have.

    Args:
        args: The command line, beginning with `summarize`.

    Raises:
        UserError: If there are fewer than two runs, a folder is not that of a run, or the data differ.
    """
    parser = argparse.ArgumentParser(
        prog="ascl summarize",
        description="Mean, standard deviation and 95% confidence interval (Student's t) of each metric over runs of "
        "`ascl test` or `ascl validate` on the same data, one run per training seed.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, such as runs/test/version_0")
    given = parser.parse_args(args[1:])
    runs = open_runs(given.runs)
    _check_distinct(runs)
    console = Console()
    console.print(_table(summarize(runs), with_interval=len(runs) > _TOO_FEW))
    if len(runs) <= _TOO_FEW:
        console.print("Two runs are too few for a confidence interval: use more seeds, such as five.", soft_wrap=True)
    console.print(f"{len(runs)} runs: {', '.join(str(one.folder) for one in runs)}", soft_wrap=True)


def _check_distinct(runs: Sequence[RunFiles]) -> None:
    """Checks that the runs are of different trainings."""
    if len(runs) < 2:
        raise UserError("give at least two runs: the spread over seeds cannot be estimated from one")
    seen: dict[Path, Path] = {}
    for one in runs:
        checkpoint = one.results.get("checkpoint")
        for what in (one.folder.resolve(), *([Path(checkpoint).absolute()] if checkpoint else [])):
            if what in seen:
                told = "are the same run" if seen[what] == one.folder else f"are both of {what}"
                raise UserError(
                    f"'{seen[what]}' and '{one.folder}' {told}: give runs of trainings with different seeds"
                )
            seen[what] = one.folder


def summarize(runs: Sequence[RunFiles]) -> dict[tuple[str, str], dict[str, Spread]]:
    """The spread of each metric over runs, by protocol and score.

    Args:
        runs: At least two runs on the same data.

    Raises:
        UserError: If no score is in all runs, or a file cannot be read.
    """
    of_runs = [figures(one) for one in runs]
    shared = [key for key in of_runs[0] if all(key in others for others in of_runs)]
    if not shared:
        raise UserError("the runs share no score, so there is nothing to summarize")
    return {
        key: {
            name: spread([of_run[key][name] for of_run in of_runs])
            for name in of_runs[0][key]
            if all(name in of_run[key] for of_run in of_runs)
        }
        for key in shared
    }


def _table(spreads: Mapping[tuple[str, str], Mapping[str, Spread]], with_interval: bool) -> Table:
    table = compact_table("Over seeds", "mean", "deviation", *(["95% interval"] if with_interval else []))
    for protocol, score, name in headline_figures(spreads):
        of_figure = spreads[protocol, score][name]
        ends = [Text(f"[{of_figure.low:.1f}, {of_figure.high:.1f}]")] if with_interval else []
        heads = f"{heading(protocol, score)} {label(name)}", f"{of_figure.mean:.1f}", f"{of_figure.deviation:.2f}"
        table.add_row(*heads, *ends)
    return table
