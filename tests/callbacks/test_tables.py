from rich.console import Console

from ascl_lightning.callbacks.tables import interval_table
from ascl_lightning.metrics.bootstrap import Interval


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
