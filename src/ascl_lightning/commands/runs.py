"""Helpers of `ascl compare` and `ascl summarize`, which read finished evaluations; quick to import."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.run_files import RESULTS, RunFiles
from ascl_lightning.metrics.labels import RECALLS
from ascl_lightning.metrics.query_results import DIRECTIONS, OWN

_Value = TypeVar("_Value")


def open_runs(folders: Sequence[str]) -> list[RunFiles]:
    """Opens runs and checks that they are of the same data.

    Args:
        folders: Folders of `ascl test` or `ascl validate`.

    Raises:
        UserError: If a folder is not that of such a run, or its data differ from those of the first.
    """
    runs = [RunFiles(Path(folder)) for folder in folders]
    for run in runs[1:]:
        for what, mine, others in _data(runs[0], run):
            if mine != others:
                raise UserError(
                    f"'{runs[0].folder}' and '{run.folder}' are of different data: {what} is {mine} in the first and "
                    f"{others} in the second; test both checkpoints with the same data"
                )
    return runs


def _data(first: RunFiles, other: RunFiles) -> Iterator[tuple[str, Any, Any]]:
    """Properties that must agree, with their values in both runs; fingerprints if both have them."""
    for key, what in (
        ("split", "the split"),
        ("num_images", "the number of images"),
        ("num_texts", "the number of captions"),
    ):
        yield what, first.results.get(key), other.results.get(key)
    mine, others = (run.results.get("data") or {} for run in (first, other))
    if mine.get("any_order") is not None and mine.get("any_order") == others.get("any_order"):
        return  # the same images and captions, possibly in another order
    for key in sorted((mine.keys() & others.keys()) - {"any_order"}):
        yield f"the fingerprint of {key}", mine[key], others[key]


def figures(run: RunFiles) -> dict[tuple[str, str], dict[str, float]]:
    """The metrics in `results.json`, by protocol and score.

    Raises:
        UserError: If the file does not have the layout that `ascl test` writes.
    """
    results = run.results
    try:
        return {
            (protocol, score): {name: float(figure["value"]) for name, figure in of_score.items()}
            for protocol, scores in {OWN: results["scores"], **results.get("protocols", {})}.items()
            for score, of_score in scores.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.folder / RESULTS} has no metrics by score; run the test again") from error


def by_protocol(values: dict[tuple[str, str], _Value]) -> dict[str, Any]:
    """Values by protocol and score in the layout of `results.json`."""
    own = {score: value for (protocol, score), value in values.items() if protocol == OWN}
    protocols: dict[str, dict[str, _Value]] = {}
    for (protocol, score), value in values.items():
        if protocol != OWN:
            protocols.setdefault(protocol, {})[score] = value
    return {"scores": own, "protocols": protocols}


def headline_figures(figures: Mapping[tuple[str, str], Collection[str]]) -> list[tuple[str, str, str]]:
    """Selects the metrics to print: all recalls of the first score, and only rsum of the others.

    Args:
        figures: Names of the metrics by protocol and score; the first score is the one that the model ranks by.

    Returns:
        Protocol, score and name of each metric.
    """
    chosen = []
    for number, ((protocol, score), names) in enumerate(figures.items()):
        recalls = [f"{direction}/{name}" for direction in DIRECTIONS for name in RECALLS] if number == 0 else []
        chosen += [(protocol, score, name) for name in (*recalls, "rsum") if name in names]
    return chosen
