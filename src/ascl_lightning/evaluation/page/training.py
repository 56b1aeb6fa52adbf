"""The section of the training run: losses by asymmetry type, alignment, uniformity and recall."""

from collections.abc import Mapping, Sequence

from ascl_lightning.evaluation.page.blocks import Block, Chart, Note, Number, Section, Table
from ascl_lightning.evaluation.page.charts import Series, line_chart
from ascl_lightning.evaluation.run_files import METRICS, RunFiles
from ascl_lightning.metrics.labels import RSUM

_CHARTS = (
    ("Training loss by asymmetry type", "loss", "train/loss", ""),
    ("Alignment of pairs", "alignment", "val/alignment", "Mean squared distance of pairs; lower is better."),
    ("Uniformity of embeddings", "uniformity", "val/uniformity", "Lower values mean a more uniform distribution."),
    ("Recall on the validation split", RSUM, "val/rsum", ""),
    ("Logit scale", "1 / temperature", "train/logit_scale", ""),
    ("Gradient norm", "norm", "train/gradient_norm", ""),
)
"""Title, label of y, prefix of the columns, and note."""
_NAMES = {
    "train/loss": "whole loss",
    "train/loss_type_i": "type I",
    "train/loss_type_ii_iii": "types II and III",
    "train/loss_first_stage": "first stage",
    "train/loss_distillation": "distillation",
}


def training_section(files: RunFiles) -> Section:
    """The logged metrics of the training run, if its folder exists."""
    rows, folder = files.training_metrics, files.training
    if folder is None:
        named = files.results.get("training")
        where = f"its folder {named} has no {METRICS}" if named else "the checkpoint is not in the folder of a run"
        return Section("training", "Training", [Note(f"The training run is not available: {where}.")])
    blocks: list[Block] = []
    source = f"{folder}/{METRICS}"
    for title, y_label, prefixes, note in _CHARTS:
        columns = [name for name in rows[0] if name.startswith(prefixes)] if rows else []
        series = [of_column for name in columns if (of_column := _series(name, rows)).x]
        if series:
            svg, said = line_chart(title, series, "step", y_label, markers=max(len(line.x) for line in series) < 12)
            blocks.append(Chart(title, source, svg, said, _last_values(title, source, columns, rows), note))
    return Section("training", "Training", blocks or [Note(f"{source} has no losses or metrics.")])


def _series(name: str, rows: Sequence[Mapping[str, str]]) -> Series:
    known = [row for row in rows if row.get(name)]
    return Series(_short(name), [float(row["step"]) for row in known], [float(row[name]) for row in known])


def _last_values(title: str, source: str, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    cells = []
    for name in columns:
        if known := [number for number, row in enumerate(rows) if row.get(name)]:
            ends = [Number(float(rows[of][name]), f"{source}#{of}/{name}", 3) for of in (known[0], known[-1])]
            cells.append((_short(name), ends))
    return Table(f"{title}: first and last value", source, ["first", "last"], cells)


def _short(name: str) -> str:
    return _NAMES.get(name, name.rpartition("/")[2].replace("_", " "))
