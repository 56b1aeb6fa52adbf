"""`ascl summarize`: the figures of several runs that differ by their seed."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ascl_lightning.commands.runs import figure_table, figures, heading, label, open_runs
from ascl_lightning.errors import UserError
from ascl_lightning.metrics.seeds import Spread, spread
from ascl_lightning.report.files import RunFiles


def run(args: Sequence[str]) -> None:
    """Prints mean, standard deviation and interval of each figure that all runs have.

    Args:
        args: The command line, `summarize` first.

    Raises:
        UserError: If there are not two runs or more, a folder is not that of a run, or the runs are of other data.
    """
    parser = argparse.ArgumentParser(
        prog="ascl summarize",
        description="Mean, standard deviation and 95% interval (Student's t) of every figure over runs of `ascl test` "
        "or `ascl validate` on the same data, one run for each seed of the training.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, such as runs/test/version_0")
    given = parser.parse_args(args[1:])
    runs = open_runs(given.runs)
    _check_distinct(runs)
    console = Console()
    for (protocol, score), of_score in summarize(runs).items():
        console.print(_table(heading(protocol, score), of_score))
    console.print(f"{len(runs)} runs: {', '.join(str(one.folder) for one in runs)}", soft_wrap=True)


def _check_distinct(runs: Sequence[RunFiles]) -> None:
    """Whether each run is of a training of its own."""
    if len(runs) < 2:
        raise UserError("give two runs or more: one says nothing about how far seeds differ")
    seen: dict[Path, Path] = {}
    for one in runs:
        checkpoint = one.results.get("checkpoint")
        for what in (one.folder.resolve(), *([Path(checkpoint).absolute()] if checkpoint else [])):
            if what in seen:
                told = "are the same run" if seen[what] == one.folder else f"are both of {what}"
                raise UserError(
                    f"'{seen[what]}' and '{one.folder}' {told}: give runs of trainings that differ by their seed"
                )
            seen[what] = one.folder


def summarize(runs: Sequence[RunFiles]) -> dict[tuple[str, str], dict[str, Spread]]:
    """Each figure over the runs, by protocol and score.

    Args:
        runs: Two or more, on the same data.

    Raises:
        UserError: If no score is in all of them, or a file cannot be read.
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


def _table(title: str, spreads: Mapping[str, Spread]) -> Table:
    table = figure_table(title, "mean", "deviation", "95% interval")
    for name, of_figure in spreads.items():
        ends = f"{of_figure.low:.1f} to {of_figure.high:.1f}"
        table.add_row(label(name), f"{of_figure.mean:.1f}", f"{of_figure.deviation:.2f}", ends)
    return table
