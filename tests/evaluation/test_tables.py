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


FIGURE = {"value": 99.0, "low": 98.25, "high": 100.0}
CONTROL = {"value": 51.0, "low": 40.0, "high": 62.5}
CARD = {
    "scores": ["independent", "two_stage"],
    "types": {
        type_: {"value": dict.fromkeys(("independent", "two_stage"), FIGURE)} | more
        for type_, more in (
            ("I", {"control": CONTROL, "unseen": {"value": dict.fromkeys(("independent", "two_stage"), FIGURE)}}),
            ("II", {}),
            ("III", {}),
        )
    },
    "discrimination": [
        {"operation": "swap_words", "score": "two_stage", "value": 71.5, "control": CONTROL, "trained_on": True},
        {"operation": "wrong_background", "score": "two_stage", "value": 70.25, "control": None, "trained_on": False},
    ],
    "curves": [
        {
            **{"name": name, "score": "two_stage", "metric": "recall_at_1", "type": type_},
            **{"direction": way, "y": [100.0, 75.4, 50.0, 25.0, 2.0], "n": [25_000]},
        }
        for type_, name in (("II", "append_siblings"), ("I", "swap_words"), ("I", "wrong_background"))
        for way in ("image_to_text", "text_to_image")
    ],
}
CARD["types"]["I"]["unseen"]["control"] = CONTROL


def test_the_report_card_fits_into_eighty_columns():
    shown = printed(type_table(CARD))
    lines = [line.split() for line in shown.splitlines()]
    for score in (["independent"], ["two", "stage"]):
        place = lines.index([*score, *["99.0"] * 4])
        assert lines[place + 1] == ["[98.2,100]"] * 4
    # in the columns of type I alone
    place = lines.index(["text", "only", "51.0", "51.0"])
    assert lines[place + 1] == ["[40.0,62.5]"] * 2
    assert "in training" in shown
    rows = [line.split() for line in printed(operation_table(CARD, "two_stage")).splitlines()]
    levels = ["100/75/50/25/2"] * 2
    assert ["swap", "words", "25,000", *levels, "71.5", "51.0", "yes"] in rows
    assert ["wrong", "background", "25,000", *levels, "70.2", "no"] in rows
    assert ["append", "siblings", "25,000", *levels] in rows


def test_a_card_whose_operations_were_all_trained_on():
    one = CARD["types"]["I"] | {"unseen": None, "control": None}
    shown = printed(type_table(CARD | {"types": CARD["types"] | {"I": one}}))
    assert "in training" not in shown
    assert "text only" not in shown
