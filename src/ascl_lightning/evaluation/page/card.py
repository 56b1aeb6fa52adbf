"""The report card section: recall for captions with missing, extra or wrong content."""

from collections.abc import Mapping, Sequence
from typing import Any

from ascl_lightning.evaluation.page.blocks import (
    Block,
    Cell,
    Chart,
    Estimate,
    Listing,
    Number,
    Section,
    Table,
    missing,
    pointer,
)
from ascl_lightning.evaluation.page.charts import Series, interval_chart, line_chart
from ascl_lightning.evaluation.page.scores import INTERVAL, estimate
from ascl_lightning.evaluation.run_files import CARD, RunFiles
from ascl_lightning.metrics.labels import RECALLS, WAYS, in_words

_METRIC = "recall_at_1"
"""The recall to draw; the file also has the others."""
_HEIGHT = f"{RECALLS[_METRIC]}, %"
_CONTROL = "text-only control"
_YES_NO = {True: "yes", False: "no"}
_Numbered = tuple[int, Mapping[str, Any]]


def card_section(files: RunFiles) -> Section:
    """The summary value and definition of each type, the curves, and the discrimination of T-."""
    card = files.json(CARD)
    if card is None:
        return Section("card", "Asymmetry report card", [missing(CARD)])
    blocks: list[Block] = []
    if card["types"]:
        blocks += _types(card)
    groups: dict[tuple[str, ...], list[_Numbered]] = {}
    for number, curve in enumerate(card["curves"]):
        if curve["metric"] == _METRIC:
            # operations of type I have one level, so one chart shows all of them
            name = "" if curve["type"] == "I" else curve["name"]
            groups.setdefault((curve["type"], name, curve["direction"]), []).append((number, curve))
    for (of_type, _, direction), curves in groups.items():
        blocks.append(_robustness(direction, curves) if of_type == "I" else _curves(curves))
    if card["discrimination"]:
        blocks.append(_discrimination(card["discrimination"]))
    if card["not_run"]:
        rows = [(in_words(of["operation"]), of["reason"]) for of in card["not_run"]]
        blocks.append(Listing("Skipped operations", CARD, rows))
    if cut := _cut_texts(card["truncated"]):
        blocks.append(Listing("Captions and variants truncated by the tokenizer", CARD, cut))
    return Section("card", "Asymmetry report card", blocks)


def _cut_texts(truncated: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    """Numbers of truncated texts, for unchanged captions and each level of an operation, without zeros."""
    rows: list[tuple[str, Cell]] = []
    for name, of in truncated.items():
        for keys, count in [((), of)] if isinstance(of, int) else [((level,), count) for level, count in of.items()]:
            if count:
                rows.append(
                    (" ".join([in_words(name), *keys]), Number(count, pointer(CARD, "truncated", name, *keys), 0))
                )
    return rows


def _types(card: Mapping[str, Any]) -> list[Block]:
    # heading, figures and place of each column; older cards have neither unseen operations nor a control
    columns: list[tuple[str, Mapping[str, Any], tuple[str, ...]]] = []
    for name, of in card["types"].items():
        columns.append((f"type {name}", of, ("types", name)))
        if of.get("unseen"):
            columns.append((f"type {name}, unseen in training", of["unseen"], ("types", name, "unseen")))
    rows: list[tuple[str, Sequence[Cell]]] = [
        (in_words(score), [estimate(of["value"][score], CARD, *place, "value", score) for _, of, place in columns])
        for score in columns[0][1]["value"]
    ]
    meanings: list[tuple[str, Cell]] = [(heading, of["definition"]) for heading, of, _ in columns]
    if any(of.get("control") for _, of, _ in columns):
        controls = [
            estimate(of["control"], CARD, *place, "control") if of.get("control") else None for _, of, place in columns
        ]
        rows.append((_CONTROL, controls))
        meanings.append((_CONTROL, card["control"]))
    return [
        Table("Summary by type, %", CARD, [heading for heading, _, _ in columns], rows, INTERVAL),
        Listing("Definitions", CARD, meanings),
    ]


def _curves(curves: Sequence[_Numbered]) -> Chart:
    first = curves[0][1]
    kind = f"Type {first['type']}: " if first["type"] in ("II", "III") else ""
    title = f"{kind}{in_words(first['name'])}, {WAYS[first['direction']]}"
    series = [Series(in_words(curve["score"]), *(curve[of] for of in ("x", "y", "low", "high"))) for _, curve in curves]
    svg, said = line_chart(title, series, first["x_label"], _HEIGHT)
    return Chart(title, CARD, svg, said, _curve_table(title, curves))


def _robustness(direction: str, curves: Sequence[_Numbered]) -> Chart:
    """Recall of captions with wrong content, compared with the unchanged captions."""
    operations = list(dict.fromkeys(curve["name"] for _, curve in curves))
    series = []
    for score in dict.fromkeys(curve["score"] for _, curve in curves):
        of_score = [curve for _, curve in curves if curve["score"] == score]
        y, low, high = ([curve[of][-1] for curve in of_score] for of in ("y", "low", "high"))
        series.append(Series(in_words(score), [operations.index(curve["name"]) for curve in of_score], y, low, high))
    title = f"Type I: captions with wrong content, {WAYS[direction]}"
    svg, said = interval_chart(title, [in_words(operation) for operation in operations], series, _HEIGHT)
    rows = [
        (
            f"{in_words(curve['name'])}, {in_words(curve['score'])}",
            [_point(number, curve, place) for place in (0, -1)],
        )
        for number, curve in curves
    ]
    table = Table(title, CARD, ["unchanged, %", "changed, %"], rows, INTERVAL)
    return Chart(title, CARD, svg, said, table)


def _curve_table(title: str, curves: Sequence[_Numbered]) -> Table:
    steps = curves[0][1]["x"]
    rows = [
        (
            in_words(curve["score"]),
            [*(_point(number, curve, place) for place in range(len(steps))), _area(number, curve)],
        )
        for number, curve in curves
    ]
    columns = [*(f"{step:.3g}" for step in steps), "area"]
    return Table(f"{title}, by {curves[0][1]['x_label']}", CARD, columns, rows, INTERVAL)


def _point(number: int, curve: Mapping[str, Any], place: int) -> Estimate:
    place %= len(curve["x"])
    parts = (Number(curve[name][place], pointer(CARD, "curves", number, name, place)) for name in ("y", "low", "high"))
    return Estimate(*parts)


def _area(number: int, curve: Mapping[str, Any]) -> Estimate:
    names = ("area", "area_low", "area_high")
    return Estimate(*(Number(curve[name], pointer(CARD, "curves", number, name)) for name in names))


def _discrimination(rows: Sequence[Mapping[str, Any]]) -> Chart:
    operations = list(dict.fromkeys(row["operation"] for row in rows))
    figures: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        figures.setdefault(in_words(row["score"]), {})[row["operation"]] = row
    controls = {row["operation"]: row["control"] for row in rows if row.get("control")}
    if controls:
        figures[_CONTROL] = controls
    series = []
    for name, of_operation in figures.items():
        y, low, high = ([of[part] for of in of_operation.values()] for part in ("value", "low", "high"))
        series.append(Series(name, [operations.index(operation) for operation in of_operation], y, low, high))
    title = "How often a caption scores above its T-"
    svg, said = interval_chart(title, [in_words(operation) for operation in operations], series, "% of captions")
    cells = [
        (f"{in_words(row['operation'])}, {in_words(row['score'])}", _cells(row, at)) for at, row in enumerate(rows)
    ]
    columns = ["% of captions", f"{_CONTROL}, %", "captions", "trained on"]
    return Chart(title, CARD, svg, said, Table(title, CARD, columns, cells, INTERVAL))


def _cells(row: Mapping[str, Any], number: int) -> list[Cell]:
    place = (CARD, "discrimination", number)
    control = row.get("control")
    return [
        estimate({name: row[name] for name in ("value", "low", "high")}, *place),
        estimate(control, *place, "control") if control else None,
        Number(row["n"], pointer(*place, "n"), 0),
        _YES_NO[row["trained_on"]] if "trained_on" in row else None,
    ]
