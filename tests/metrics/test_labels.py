from ascl_lightning.metrics.labels import recall_rows


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
