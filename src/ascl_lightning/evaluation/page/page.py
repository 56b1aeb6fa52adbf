"""Writes the page of a run."""

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
from ascl_lightning.evaluation.page.scores import estimate, protocols_section, queries_section, scores_section
from ascl_lightning.evaluation.page.training import training_section
from ascl_lightning.evaluation.run_files import (
    ATTENTION,
    CARD,
    EXAMPLES,
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
    "evaluation": "The model was evaluated with another configuration than that of its training",
    "training": "The training continued another run with another configuration",
}


def write_report(run: Path) -> Path:
    """Writes `report.html` into a run's folder, from the files of that folder and of the training run it names.

    Args:
        run: Of `ascl test` or `ascl validate`.

    Returns:
        The page: one file that asks for nothing from anywhere.

    Raises:
        UserError: If it is no folder of such a run, or one of its files cannot be read.
    """
    require_writable_file(run / PAGE)
    files = RunFiles(run)
    sections = []
    for section, file in _SECTIONS:
        with _readable(run / file):
            sections.append(section(files))
    with _readable(run / RESULTS):
        page = _page(files, sections)
    write_file(run / PAGE, page)
    return run / PAGE


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Names the file that a section is made of, where it is JSON but does not hold what a test writes."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file}: does not hold what `ascl test` writes ({error!r}); run the test again") from error


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
    """Model, data and split, as far as the run's configuration names them."""
    split = _SPLITS.get(files.results["split"], files.results["split"])
    model, data = files.config.get("model"), files.config.get("data")
    if not (isinstance(model, dict) and isinstance(data, dict)):
        return f"Report on the {split}"
    towers = dict.fromkeys(_name_of(model.get(tower)) for tower in ("image_encoder", "text_encoder"))
    root = Path(data.get("root") or "").name
    source = _name_of(data.get("source")) + (f" ({root})" if root else "")
    return f"{' + '.join(towers)} on {source}, {split}"


def _name_of(part: Any) -> str:
    """What a part of the configuration is called: by the weights that it names, or by its class."""
    if not isinstance(part, dict):
        return "?"
    arguments = part.get("init_args") or {}
    named = str(arguments.get("name") or arguments.get("path") or part.get("class_path") or "?")
    return re.split(r"[/:.]" if named == part.get("class_path") else r"[/:]", named.rstrip("/"))[-1]


def _headlines(scores: Mapping[str, Any]) -> dict[str, Estimate]:
    """Figures of the score that the model ranks by."""
    score = "fused" if "fused" in scores else next(iter(scores))
    return {
        label(name): estimate(scores[score][name], RESULTS, "scores", score, name)
        for name in HEADLINES
        if name in scores[score]
    }


def _checks_section(files: RunFiles) -> Section:
    """What falsifies figures, or might."""
    results = files.results
    cut, texts = (results.get(name) for name in ("truncated_texts", "num_texts"))
    rows: list[tuple[str, Number | str]] = []
    if cut is not None:
        number = Number(cut, pointer(RESULTS, "truncated_texts"), 0)
        rows.append((f"captions cut by the tokenizer, of {texts:,}", number))
    rows += [(f"leak: {of['kind']}", of["message"]) for of in results.get("leaks") or []]
    rows += [("not checked", reason) for reason in results.get("unchecked") or []]
    rows += [("to know", note) for note in results.get("notes") or []]
    blocks: list[Block] = [Listing("Found and not checked", RESULTS, rows)] if rows else []
    for stage, changes in (results.get("config_changes") or {}).items():
        settings = ", ".join(f"{of['setting']} {of['before']} -> {of['now']}" for of in changes)
        blocks += [Note(f"{_CHANGES[stage]}: {settings}.", warning=True)] if changes else []
    if results.get("leaks") is None:
        blocks.append(Note(f"{RESULTS} says nothing about leaks: the run was not checked for them.", warning=True))
    elif not results["leaks"]:
        blocks.append(Note("No leak was found by the checks that ran."))
    return Section("checks", "Leaks, cut captions and changed settings", blocks)


def _provenance_section(files: RunFiles) -> Section:
    """Of what, and how to make it again."""
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
    blocks: list[Block] = [Listing("Of what", RESULTS, rows)]
    if results.get("command"):
        blocks.append(Code("To make it again", RESULTS, results["command"]))
    config = files.folder / CONFIG
    if config.is_file():
        blocks.append(Code("Configuration", CONFIG, config.read_text(encoding="utf-8"), folded=True))
    sizes = [(name, f"{size:,} bytes") for name, size in files.every_file()]
    blocks.append(Listing("Files of the run", str(files.folder), sizes))
    return Section("provenance", "Provenance", blocks)


_SECTIONS: tuple[tuple[Callable[[RunFiles], Section], str], ...] = (
    (scores_section, RESULTS),
    (protocols_section, RESULTS),
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
"""What the page shows, in this order, and the file that each section is made of."""
