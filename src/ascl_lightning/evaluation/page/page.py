"""Writes the HTML report of a run."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.page.blocks import Block, Code, Estimate, Listing, Note, Number, Section, pointer
from ascl_lightning.evaluation.page.card import card_section
from ascl_lightning.evaluation.page.evidence import (
    attention_section,
    examples_section,
    hard_section,
    histograms_section,
)
from ascl_lightning.evaluation.page.hard_negatives import hard_negatives_section
from ascl_lightning.evaluation.page.scores import estimate, protocols_section, queries_section, scores_section
from ascl_lightning.evaluation.page.training import training_section
from ascl_lightning.evaluation.run_files import (
    ATTENTION,
    CARD,
    EXAMPLES,
    HARD_NEGATIVES,
    HISTOGRAMS,
    METRICS,
    QUERIES,
    RESULTS,
    RunFiles,
)
from ascl_lightning.metrics.labels import HEADLINES, label
from ascl_lightning.runtime.config_files import CONFIG
from ascl_lightning.runtime.files import require_writable_file, write_file
from ascl_lightning.runtime.templates import render

PAGE = "report.html"
_SPLITS = {"test": "test split", "val": "validation split"}
_CHANGES = {
    "evaluation": "The model was evaluated with a different configuration than in training",
    "training": "The training was resumed with a different configuration",
}


def write_report(run: Path) -> Path:
    """Writes `report.html` into a run's folder, from the files of the run and of its training run.

    Args:
        run: Folder of a run of `ascl test` or `ascl validate`.

    Returns:
        Path of the report, a self-contained file.

    Raises:
        UserError: If the folder is not that of such a run, or one of its files cannot be read.
    """
    require_writable_file(run / PAGE)
    files = RunFiles(run)
    sections = []
    is_ranked = not (run / HARD_NEGATIVES).is_file()
    for section, file in _SECTIONS:
        if file in _OF_RANKED and not is_ranked:
            continue
        with _readable(run / file):
            sections.append(section(files))
    with _readable(run / RESULTS):
        page = _page(files, sections)
    write_file(run / PAGE, page)
    return run / PAGE


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Names the file in the error if a section fails because the file has unexpected content."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file} has unexpected content ({error!r}); run the test again") from error


def _page(files: RunFiles, sections: Sequence[Section]) -> str:
    results = files.results
    return render(
        "evaluation/page/report.html.jinja",
        title=_title(files),
        sizes={name: Number(results[name], pointer(RESULTS, name), 0) for name in ("num_images", "num_texts")},
        checkpoint=results.get("checkpoint"),
        headlines=_headlines(results["scores"]),
        leaks=results.get("leaks") or [],
        sections=[section for section in sections if section.blocks],
    )


def _title(files: RunFiles) -> str:
    """Model, data and split, if the run's configuration names them."""
    split = _SPLITS.get(files.results["split"], files.results["split"])
    model, data = files.config.get("model"), files.config.get("data")
    if not (isinstance(model, dict) and isinstance(data, dict)):
        return f"Report on the {split}"
    towers = dict.fromkeys(_name_of(model.get(tower)) for tower in ("image_encoder", "text_encoder"))
    root = Path(data.get("root") or "").name
    source = _name_of(data.get("source")) + (f" ({root})" if root else "")
    return f"{' + '.join(towers)} on {source}, {split}"


def _name_of(part: Any) -> str:
    """Display name of a part of the configuration: the name of its weights, or its class."""
    if not isinstance(part, dict):
        return "?"
    arguments = part.get("init_args") or {}
    named = str(arguments.get("name") or arguments.get("path") or part.get("class_path") or "?")
    return re.split(r"[/:.]" if named == part.get("class_path") else r"[/:]", named.rstrip("/"))[-1]


def _headlines(scores: Mapping[str, Any]) -> dict[str, Estimate]:
    """Metrics of the score that the model ranks by; none of a benchmark of hard negatives, which is not ranked."""
    if not scores:
        return {}
    score = "fused" if "fused" in scores else next(iter(scores))
    return {
        label(name): estimate(scores[score][name], RESULTS, "scores", score, name)
        for name in HEADLINES
        if name in scores[score]
    }


def _checks_section(files: RunFiles) -> Section:
    """Leaks and other checks of the validity of the metrics."""
    results = files.results
    cut, texts = (results.get(name) for name in ("truncated_texts", "num_texts"))
    rows: list[tuple[str, Number | str]] = []
    if cut is not None:
        number = Number(cut, pointer(RESULTS, "truncated_texts"), 0)
        rows.append((f"truncated captions, of {texts:,}", number))
    rows += [(f"leak: {of['kind']}", of["message"]) for of in results.get("leaks") or []]
    rows += [("not checked", reason) for reason in results.get("unchecked") or []]
    rows += [("note", note) for note in results.get("notes") or []]
    blocks: list[Block] = [Listing("Results of the checks", RESULTS, rows)] if rows else []
    for stage, changes in (results.get("config_changes") or {}).items():
        settings = ", ".join(f"{of['setting']} {of['before']} -> {of['now']}" for of in changes)
        blocks += [Note(f"{_CHANGES[stage]}: {settings}.", warning=True)] if changes else []
    if results.get("leaks") is None:
        blocks.append(Note("The run was not checked for leaks.", warning=True))
    elif not results["leaks"]:
        blocks.append(Note("The checks found no leaks."))
    return Section("checks", "Leaks, truncated captions and changed settings", blocks)


def _provenance_section(files: RunFiles) -> Section:
    """Checkpoint, data, command and configuration of the run."""
    results = files.results
    rows: list[tuple[str, Number | str]] = [
        (name, str(results[key]))
        for key, name in (("checkpoint", "checkpoint"), ("training", "training run"))
        if results.get(key)
    ]
    rows += [(f"fingerprint of {name}", str(value)) for name, value in (results.get("data") or {}).items()]
    rows += [
        (f"seconds of {name}", Number(value, pointer(RESULTS, "seconds", name), 2))
        for name, value in (results.get("seconds") or {}).items()
    ]
    blocks: list[Block] = [Listing("Checkpoint and data", RESULTS, rows)]
    if results.get("command"):
        blocks.append(Code("Command", RESULTS, results["command"]))
    config = files.folder / CONFIG
    if config.is_file():
        blocks.append(Code("Configuration", CONFIG, config.read_text(encoding="utf-8"), folded=True))
    sizes = [(name, f"{size:,} bytes") for name, size in files.every_file()]
    blocks.append(Listing("Files of the run", str(files.folder), sizes))
    return Section("provenance", "Provenance", blocks)


_SECTIONS: tuple[tuple[Callable[[RunFiles], Section], str], ...] = (
    (scores_section, RESULTS),
    (protocols_section, RESULTS),
    (hard_negatives_section, HARD_NEGATIVES),
    (card_section, CARD),
    (training_section, METRICS),
    (histograms_section, HISTOGRAMS),
    (examples_section, EXAMPLES),
    (attention_section, ATTENTION),
    (hard_section, EXAMPLES),
    (queries_section, QUERIES),
    (_checks_section, RESULTS),
    (_provenance_section, RESULTS),
)
"""The sections in order, each with its main file."""
_OF_RANKED = (CARD, HISTOGRAMS, EXAMPLES, ATTENTION, QUERIES)
"""Files that are not written for a benchmark of hard negatives."""
