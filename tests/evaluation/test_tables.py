import io

from rich.console import Console

from ascl_lightning.evaluation.tables import interval_table, operation_table, type_table
from ascl_lightning.metrics.intervals import Interval


def printed(table) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def figures(recall: Interval, rank: Interval, rsum: Interval) -> dict[str, Interval]:
    recalls, ranks = ("recall_at_1", "recall_at_5", "recall_at_10"), ("median_rank", "mean_rank")
    of = {f"{way}/{name}": recall for way in ("image_to_text", "text_to_image") for name in recalls}
    of |= {f"{way}/{name}": rank for way in ("image_to_text", "text_to_image") for name in ranks}
    return of | {"rsum": rsum}


def test_a_direction_is_a_row_with_intervals_in_brackets_below():
    wide = figures(Interval(45.6, 44.1, 47.0), Interval(123.4, 102.3, 131.0), Interval(412.3, 405.1, 419.2))
    best = figures(Interval(100.0, 99.1, 100.0), Interval(1.0, 1.0, 1.0), Interval(600.0, 588.8, 600.0))
    ceiling = {"rsum": 590.4, "image_to_text/recall_at_1": 98.5}
    shown = printed(interval_table("Test split", {"independent": wide, "two_stage": best}, ceiling))

    assert "\u2026" not in shown
    lines = [line.split() for line in shown.splitlines()]
    place = lines.index(["independent"])
    assert lines[place + 1 : place + 5] == [
        ["i2t", "45.6", "45.6", "45.6", "123.4", "123.4"],
        ["[44.1,47.0]"] * 3 + ["[102,131]"] * 2,
        ["t2i", "45.6", "45.6", "45.6", "123.4", "123.4", "412.3"],
        ["[44.1,47.0]"] * 3 + ["[102,131]"] * 2 + ["[405,419]"],
    ]
    assert shown.count("[99.1,100]") == 6
    place = lines.index(["ceiling"])
    assert lines[place + 1 : place + 3] == [["i2t", "98.5"], ["t2i", "590.4"]]


CARD = {
    "scores": ["independent", "two_stage"],
    "types": {
        type_: {
            "value": {score: {"value": 99.0, "low": 98.25, "high": 100.0} for score in ("independent", "two_stage")}
        }
        for type_ in ("I", "II", "III")
    },
    "discrimination": [{"operation": "swap_words", "score": "two_stage", "value": 71.5}],
    "curves": [
        {
            **{"name": name, "score": "two_stage", "metric": "recall_at_1", "type": type_},
            **{"direction": way, "y": [100.0, 75.4, 50.0, 25.0, 2.0], "n": [25_000]},
        }
        for type_, name in (("II", "append_siblings"), ("I", "swap_words"))
        for way in ("image_to_text", "text_to_image")
    ],
}


def test_the_report_card_fits_into_eighty_columns():
    shown = printed(type_table(CARD))
    assert shown.count("99.0 [98.2, 100.0]") == 6
    assert "III, missing words" in shown
    rows = [line.split() for line in printed(operation_table(CARD, "two_stage")).splitlines()]
    assert ["swap", "words", "25,000", *["100/75/50/25/2"] * 2, "71.5"] in rows
    assert ["append", "siblings", "25,000", *["100/75/50/25/2"] * 2] in rows
