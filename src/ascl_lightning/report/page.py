"""Writes the page of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ascl_lightning.metrics.labels import HEADLINES, label
from ascl_lightning.report.blocks import Block, Code, Estimate, Listing, Note, Number, Section, pointer
from ascl_lightning.report.card import card_section
from ascl_lightning.report.evidence import attention_section, examples_section, hard_section, histograms_section
from ascl_lightning.report.files import CONFIG, RESULTS, RunFiles
from ascl_lightning.report.scores import estimate, protocols_section, queries_section, scores_section
from ascl_lightning.report.training import training_section
from ascl_lightning.runtime.files import write_file
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
    files = RunFiles(run)
    sections = [
        scores_section(files),
        protocols_section(files),
        card_section(files),
        training_section(files),
        histograms_section(files),
        examples_section(files),
        attention_section(files),
        hard_section(files),
        queries_section(files),
        _checks_section(files.results),
        _provenance_section(files),
    ]
    page = render(
        "report/report.html.jinja",
        title=f"Report on the {_SPLITS.get(files.results['split'], files.results['split'])}",
        sizes={name: Number(files.results[name], pointer(RESULTS, name), 0) for name in ("num_images", "num_texts")},
        checkpoint=files.results.get("checkpoint"),
        headlines=_headlines(files.results["scores"]),
        leaks=files.results.get("leaks") or [],
        sections=[section for section in sections if section.blocks],
    )
    write_file(run / PAGE, page)
    return run / PAGE


def _headlines(scores: Mapping[str, Any]) -> dict[str, Estimate]:
    """Figures of the score that the model ranks by."""
    score = "fused" if "fused" in scores else next(iter(scores))
    return {
        label(name): estimate(scores[score][name], RESULTS, "scores", score, name)
        for name in HEADLINES
        if name in scores[score]
    }


def _checks_section(results: Mapping[str, Any]) -> Section:
    """What falsifies figures, or might."""
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
