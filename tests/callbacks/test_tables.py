from rich.console import Console

from ascl_lightning.callbacks.tables import interval_table, recall_rows
from ascl_lightning.metrics.bootstrap import Interval


def test_each_group_has_a_row_for_each_direction():
    metrics = {
        f"{group}{way}/{name}": value
        for group, value in (("", 12.34), ("ceiling/", 90.0))
        for way in ("image_to_text", "text_to_image")
        for name in ("recall_at_1", "recall_at_5", "recall_at_10")
    }
    metrics |= {"rsum": 74.0, "ceiling/rsum": 540.0, "image_to_text/median_rank": 3.0, "alignment": 1.0}
    assert recall_rows(metrics) == [
        ("image to text", ["12.3", "12.3", "12.3", "3.0", "", ""]),
        ("text to image", ["12.3", "12.3", "12.3", "", "", "74.0"]),
        ("ceiling: image to text", ["90.0", "90.0", "90.0", "", "", ""]),
        ("ceiling: text to image", ["90.0", "90.0", "90.0", "", "", "540.0"]),
    ]


def test_figures_with_intervals_fit_into_eighty_columns():
    figures = {
        f"{way}/{name}": Interval(100.0, 99.1, 100.0)
        for way in ("image_to_text", "text_to_image")
        for name in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank", "mean_rank")
    } | {"rsum": Interval(600.0, 588.8, 600.0)}
    console = Console(width=80, record=True)
    console.print(interval_table("Test split", {"two_stage": figures}, {"rsum": 590.4}))
    shown = console.export_text()
    assert "…" not in shown
    assert shown.count("99.1-100") == 10
    assert "589-600" in shown
    assert "590.4" in shown
    assert shown.count("t2i") == 2  # of the score and of the ceiling
