"""What commands that read finished evaluations share; nothing here takes seconds to import."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.run_files import RESULTS, RunFiles
from ascl_lightning.metrics.labels import RECALLS
from ascl_lightning.metrics.query_results import DIRECTIONS, OWN

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


def shown(figures: Mapping[tuple[str, str], Collection[str]]) -> list[tuple[str, str, str]]:
    """The figures that a screen has room for: recalls of the first score, then the sum of recalls of the others.

    Args:
        figures: Names of the figures of each protocol and score; the first one ranks.

    Returns:
        Protocol, score and figure.
    """
    chosen = []
    for number, ((protocol, score), names) in enumerate(figures.items()):
        recalls = [f"{direction}/{name}" for direction in DIRECTIONS for name in RECALLS] if number == 0 else []
        chosen += [(protocol, score, name) for name in (*recalls, "rsum") if name in names]
    return chosen
