"""The file of single queries, of a planted card."""

import numpy as np
from pyarrow import parquet

from ascl_lightning.data.variants.ladder import Ladder
from ascl_lightning.evaluation.report_card.curves import CardFigures, Outcome, Step
from ascl_lightning.evaluation.report_card.rows import write_rows


def test_every_query_has_a_row(tmp_path):
    """Two captions of image 7, one of image 3, none of image 9; the operation changes the first caption."""
    plain = Outcome(np.array([1, 2, 0]), np.array([1, 2, 3]), np.array([0.5, 0.25, 0.125]))
    blind = np.array([0.0625, -0.5, 0.0])
    made = Outcome(np.array([2, 1, 0]), np.array([3, 2, 1]), np.array([0.75, 0.25, 0.125]), blind)
    edited = Ladder("I", "edit", "edits", 0.0, (Step(1.0, np.array([True, False, False]), {"planted": made}),))
    owner = np.array([0, 0, 1])
    card = CardFigures({"planted": plain}, [edited], owner, np.array([4, 4, 4]))
    write_rows(tmp_path / "rows.parquet", card, owner, np.array([7, 3, 9]), [70, 71, 30])
    rows = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(rows) == 2 * (2 + 3)
    assert {row["score"] for row in rows} == {"planted"}
    keys = ("direction", "operation", "level", "query", "image", "changed", "rank", "own_score", "blind_score")
    found = [tuple(row[key] for key in keys) for row in rows]
    assert found[:2] == [
        ("image_to_text", "unchanged", 0.0, 7, 7, False, 1, None, None),
        ("image_to_text", "unchanged", 0.0, 3, 3, False, 2, None, None),
    ]
    assert found[5:8] == [
        ("image_to_text", "edit", 1.0, 7, 7, True, 2, None, None),
        ("image_to_text", "edit", 1.0, 3, 3, False, 1, None, None),
        ("text_to_image", "edit", 1.0, 70, 7, True, 3, 0.75, 0.0625),
    ]
    assert found[9] == ("text_to_image", "edit", 1.0, 30, 3, False, 1, 0.125, 0.0)
