"""What commands that read finished evaluations share; nothing here takes seconds to import."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.table import Column, Table

from ascl_lightning.errors import UserError
from ascl_lightning.metrics.queries import DIRECTIONS
from ascl_lightning.report.files import OWN, RESULTS, RunFiles

_SHORT = dict(zip(DIRECTIONS, ("i2t", "t2i"), strict=True))
_NAMES = {
    "recall_at_": "R@",
    "median_rank": "median rank",
    "mean_rank": "mean rank",
    "map_at_r": "mAP@R",
    "r_precision": "R-Precision",
    "ndcg": "nDCG",
    "rsum": "rSum",
}
_Value = TypeVar("_Value")


def open_runs(folders: Sequence[str]) -> list[RunFiles]:
    """The runs, once it is clear that their figures can be set side by side.

    Args:
        folders: Of `ascl test` or `ascl validate`.

    Raises:
        UserError: If one is no such folder, or was made on other data than the first.
    """
    runs = [RunFiles(Path(folder)) for folder in folders]
    for run in runs[1:]:
        for what, mine, others in _data(runs[0], run):
            if mine != others:
                raise UserError(
                    f"'{runs[0].folder}' and '{run.folder}' are of other data: {what} is {mine} in the one and "
                    f"{others} in the other; test both checkpoints with the same data"
                )
    return runs


def _data(first: RunFiles, other: RunFiles) -> Iterator[tuple[str, Any, Any]]:
    """What must agree; fingerprints, where both runs have them."""
    for key, what in (("split", "the split"), ("num_images", "its number of images"), ("num_texts", "of captions")):
        yield what, first.results.get(key), other.results.get(key)
    mine, others = (run.results.get("data") or {} for run in (first, other))
    if mine.get("any_order") is not None and mine.get("any_order") == others.get("any_order"):
        return  # the same images and captions, if in another order
    for key in sorted((mine.keys() & others.keys()) - {"any_order"}):
        yield f"the fingerprint of {key}", mine[key], others[key]


def figures(run: RunFiles) -> dict[tuple[str, str], dict[str, float]]:
    """The figures in `results.json`, by protocol and score.

    Raises:
        UserError: If the file does not hold them as `ascl test` writes them.
    """
    results = run.results
    try:
        return {
            (protocol, score): {name: float(figure["value"]) for name, figure in of_score.items()}
            for protocol, scores in {OWN: results["scores"], **results.get("protocols", {})}.items()
            for score, of_score in scores.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.folder / RESULTS}: does not hold figures of scores; run the test again") from error


def nested(values: dict[tuple[str, str], _Value]) -> dict[str, Any]:
    """By protocol and score, laid out as in `results.json`."""
    own = {score: value for (protocol, score), value in values.items() if protocol == OWN}
    protocols: dict[str, dict[str, _Value]] = {}
    for (protocol, score), value in values.items():
        if protocol != OWN:
            protocols.setdefault(protocol, {})[score] = value
    return {"scores": own, "protocols": protocols}


def heading(protocol: str, score: str) -> str:
    """Of the rows of a score.

    Example:
        >>> heading("own", "two_stage"), heading("eccv", "fused")
        ('two stage', 'fused, eccv')
    """
    words = score.replace("_", " ")
    return words if protocol == OWN else f"{words}, {protocol}"


def figure_table(title: str, *columns: str) -> Table:
    """An empty table with a row's label and these columns, which stays within 80 characters."""
    right = (Column(name, justify="right", no_wrap=True) for name in columns)
    return Table(Column(no_wrap=True), *right, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def label(figure: str) -> str:
    """Of the row of a figure.

    Example:
        >>> label("image_to_text/recall_at_1"), label("rsum")
        ('i2t R@1', 'rSum')
    """
    direction, _, name = figure.rpartition("/")
    for key, words in _NAMES.items():
        name = name.replace(key, words)
    return f"{_SHORT[direction]} {name}" if direction else name
