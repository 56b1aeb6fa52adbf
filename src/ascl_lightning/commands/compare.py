"""`ascl compare`: differences between two runs on the same data, with significance tests."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascl_lightning.commands.runs import by_protocol, headline_figures, open_runs
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.run_files import CARD, QUERIES, RunFiles
from ascl_lightning.evaluation.tables import compact_table
from ascl_lightning.metrics.intervals import Difference, compare
from ascl_lightning.metrics.labels import heading, in_words, label
from ascl_lightning.metrics.query_results import Queries, read_queries
from ascl_lightning.runtime.files import require_writable_file, write_file

SIGNIFICANT = 0.05
_Differences = dict[tuple[str, str], dict[str, Difference]]


def run(args: Sequence[str]) -> None:
    """Prints the difference of each metric that both runs have.

    Args:
        args: The command line, beginning with `compare`.

    Raises:
        UserError: If a folder is not that of a run, the data differ, or the runs share no score.
    """
    parser = argparse.ArgumentParser(
        prog="ascl compare",
        description="Compare two runs of `ascl test` or `ascl validate` on the same data. 95% confidence intervals are "
        "from a paired bootstrap over images, p-values from a paired permutation test over images. Holm's correction "
        "covers all metrics of a score. Report cards of the same variants are compared too, with p-values from the "
        "bootstrap.",
    )
    parser.add_argument("run_a", metavar="RUN_A", help="folder of a run, such as runs/test/version_0")
    parser.add_argument("run_b", metavar="RUN_B", help="folder of the run to compare with RUN_A")
    parser.add_argument("--json", metavar="FILE", type=Path, help="file for the differences of all metrics")
    given = parser.parse_args(args[1:])
    if given.json is not None:
        require_writable_file(given.json)
    a, b = open_runs([given.run_a, given.run_b])
    differences, cards = compare_runs(a, b), _compare_cards(a, b)
    if given.json is not None:
        _write(given.json, a, b, differences, cards)
    console = Console()
    rows = headline_figures(differences)
    console.print(
        _table(
            "B - A", {f"{heading(of, score)} {label(name)}": differences[of, score][name] for of, score, name in rows}
        )
    )
    if cards:
        named = {f"{in_words(score)} {name}": of for score, row in cards.items() for name, of in row.items()}
        console.print(_table("Report card by type, B - A", named))
    elif cards is not None:
        console.print(
            "The report cards have other variants: give one --report_card.variants of the other", soft_wrap=True
        )
    console.print(f"A: {a.folder}\nB: {b.folder}", soft_wrap=True)
    for name, one in (("A", a), ("B", b)):
        for leak in one.results.get("leaks") or []:
            console.print(f"Data leak in {name}: {leak['message']}", soft_wrap=True)
    every = "add --json FILE for all metrics of all scores" if given.json is None else f"all metrics: {given.json}"
    console.print(f"Starred: p (Holm) <= {SIGNIFICANT}; {every}", soft_wrap=True)


def compare_runs(a: RunFiles, b: RunFiles) -> _Differences:
    """Differences b - a of all metrics, by protocol and score.

    Args:
        a: A run.
        b: A run on the same data.

    Raises:
        UserError: If the queries of a run cannot be read, the runs have different queries, or they share no score.
    """
    queries_a, queries_b = (read_queries(run.folder / QUERIES) for run in (a, b))
    shared = [key for key in queries_a if key in queries_b]
    if not shared:
        raise UserError(
            f"the runs share no score: '{a.folder}' has {_names(queries_a)}, and '{b.folder}' has {_names(queries_b)}"
        )
    try:
        return {
            (protocol, score): compare(
                queries_a[score, protocol], queries_b[score, protocol].in_order_of(queries_a[score, protocol])
            )
            for score, protocol in shared
        }
    except ValueError as error:
        raise UserError(f"'{a.folder}' and '{b.folder}' cannot be compared: {error}") from error


def _names(queries: Mapping[tuple[str, str], Queries]) -> str:
    return ", ".join(heading(protocol, score) for score, protocol in queries) or "none"


def _compare_cards(a: RunFiles, b: RunFiles) -> dict[str, dict[str, Difference]] | None:
    """Differences of the report cards by score; None unless both runs have one, empty if the variants differ."""
    if a.json(CARD) is None or b.json(CARD) is None:
        return None
    # imports torch, which runs without a report card do not need
    from ascl_lightning.evaluation.report_card.stored_card import compare_cards

    return compare_cards(a.folder, b.folder)


def _write(
    path: Path, a: RunFiles, b: RunFiles, differences: _Differences, cards: dict[str, dict[str, Difference]] | None
) -> None:
    plain = {
        key: {name: asdict(difference) for name, difference in of_score.items()}
        for key, of_score in differences.items()
    }
    content = {"a": str(a.folder), "b": str(b.folder), **by_protocol(plain)}
    if cards:
        content["report_card"] = {
            score: {name: asdict(of) for name, of in of_score.items()} for score, of_score in cards.items()
        }
    write_file(path, json.dumps(content, indent=2) + "\n")


def _table(title: str, differences: Mapping[str, Difference]) -> Table:
    """A table of differences by label; significant rows are bold with a star."""
    table = compact_table(title, "A", "B", "B - A", "95% interval", "p", "p (Holm)", "")
    for name, difference in differences.items():
        is_found = difference.holm_p_value <= SIGNIFICANT
        table.add_row(
            name,
            f"{difference.a:.1f}",
            f"{difference.b:.1f}",
            f"{difference.value:+.1f}",
            Text(f"[{difference.low:+.1f}, {difference.high:+.1f}]"),
            f"{difference.p_value:.4f}",
            f"{difference.holm_p_value:.4f}",
            "*" if is_found else "",
            style="bold" if is_found else None,
        )
    return table
