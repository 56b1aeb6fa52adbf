"""The section of the report card: how recall falls when a query says too little, too much, or something wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from ascl_lightning.report.blocks import Block, Cell, Chart, Estimate, Listing, Number, Section, Table, missing, pointer
from ascl_lightning.report.charts import Series, interval_chart, line_chart
from ascl_lightning.report.files import CARD, RunFiles
from ascl_lightning.report.scores import DIRECTIONS, INTERVAL, estimate, label

_OF_A_CHART = ("type", "name", "direction", "metric")
_Numbered = tuple[int, Mapping[str, Any]]


def card_section(files: RunFiles) -> Section:
    """A figure for each type with its definition, the curves, and how often a text beats its own T-."""
    card = files.json(CARD)
    if card is None:
        return Section("card", "Asymmetry report card", [missing(CARD)])
    blocks: list[Block] = []
    if card.get("types"):
        blocks.append(_types_table(card["types"]))
    groups: dict[tuple[str, ...], list[_Numbered]] = {}
    for number, curve in enumerate(card.get("curves") or []):
        groups.setdefault(tuple(curve[name] for name in _OF_A_CHART), []).append((number, curve))
    blocks += [_curves(curves) for curves in groups.values()]
    if card.get("discrimination"):
        blocks.append(_discrimination(card["discrimination"]))
    if card.get("not_run"):
        rows = [(label(of["operation"]), of["reason"]) for of in card["not_run"]]
        blocks.append(Listing("Not run", CARD, rows))
    return Section("card", "Asymmetry report card", blocks)


def _types_table(types: Mapping[str, Any]) -> Table:
    scores = list(dict.fromkeys(score for of in types.values() for score in of["value"]))
    rows: list[tuple[str, Sequence[Cell]]] = [
        (
            f"Type {name}",
            [
                of["definition"],
                *(
                    estimate(of["value"][score], CARD, "types", name, "value", score) if score in of["value"] else None
                    for score in scores
                ),
            ],
        )
        for name, of in types.items()
    ]
    return Table("One figure for each type", CARD, ["what it is", *map(label, scores)], rows, INTERVAL)


def _curves(curves: Sequence[_Numbered]) -> Chart:
    first = curves[0][1]
    words = DIRECTIONS.get(first["direction"], label(first["direction"]))
    kind = f"Type {first['type']}: " if first["type"] in ("I", "II", "III") else ""
    title = f"{kind}{label(first['name'])}, {words}"
    series = [
        Series(label(curve["score"]), curve["x"], curve["y"], curve.get("low"), curve.get("high"))
        for _, curve in curves
    ]
    svg, said = line_chart(title, series, first["x_label"], label(first["metric"]))
    return Chart(title, CARD, svg, said, _curve_table(title, curves))


def _curve_table(title: str, curves: Sequence[_Numbered]) -> Table:
    steps = list(dict.fromkeys(x for _, curve in curves for x in curve["x"]))
    rows = []
    for number, curve in curves:
        places = {x: place for place, x in enumerate(curve["x"])}
        cells = [_point(number, curve, places[step]) if step in places else None for step in steps]
        area = {"value": "area", "low": "area_low", "high": "area_high"}
        rows.append((label(curve["score"]), [*cells, _estimate(curve, area, number)]))
    columns = [*(f"{step:g}" for step in steps), "area"]
    return Table(f"{title}, by {curves[0][1]['x_label']}", CARD, columns, rows, INTERVAL)


def _point(number: int, curve: Mapping[str, Any], place: int) -> Cell:
    at_place = {name: curve[name][place] for name in ("y", "low", "high") if curve.get(name)}
    return _estimate(at_place, {"value": "y", "low": "low", "high": "high"}, number, place)


def _estimate(values: Mapping[str, Any], names: Mapping[str, str], number: int, *place: int) -> Cell:
    """Of a curve; nothing where it has no value there."""
    numbers = {
        part: Number(values[name], pointer(CARD, "curves", number, name, *place))
        for part, name in names.items()
        if values.get(name) is not None
    }
    return Estimate(**numbers) if "value" in numbers else None


def _discrimination(rows: Sequence[Mapping[str, Any]]) -> Chart:
    operations = list(dict.fromkeys(row["operation"] for row in rows))
    series = []
    for score in dict.fromkeys(row["score"] for row in rows):
        of_score = [row for row in rows if row["score"] == score]
        y, low, high = ([row[part] for row in of_score] for part in ("value", "low", "high"))
        series.append(Series(label(score), [operations.index(row["operation"]) for row in of_score], y, low, high))
    title = "How often a caption beats its own T-"
    svg, said = interval_chart(title, [label(operation) for operation in operations], series, "% of captions")
    cells: list[tuple[str, Sequence[Cell]]] = [
        (
            f"{label(row['operation'])}, {label(row['score'])}",
            [
                estimate({name: row[name] for name in ("value", "low", "high")}, CARD, "discrimination", number),
                Number(row["n"], pointer(CARD, "discrimination", number, "n"), 0),
            ],
        )
        for number, row in enumerate(rows)
    ]
    return Chart(title, CARD, svg, said, Table(title, CARD, ["% of captions", "captions"], cells, INTERVAL))
