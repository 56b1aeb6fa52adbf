"""Made-up results: what the document says follows from the ranks that were planted."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from tests.helpers.runs import write_run

from ascl_lightning.data.variants.ladder import Ladder, Variants, VariantStep
from ascl_lightning.errors import UserError
from ascl_lightning.experiment.document import document
from ascl_lightning.experiment.grid import Cells, Grid
from ascl_lightning.experiment.outcomes import Outcomes
from ascl_lightning.metrics.query_results import Queries

GRID = {
    "notes": ["A sentence about the data."],
    "groups": {"scenes": {"about": "Tiny towers.", "configs": ["scenes"], "tried": {"ascl": 7}}},
    "rows": {
        "infonce": {"about": "plain", "configs": ["baselines/infonce"]},
        "ascl": {"baseline": "infonce"},
        "words": {"settings": {"data.negatives": []}, "baseline": "ascl"},
    },
}


def queries(found, num_images=20):
    """One caption of each image; the first `found` images are at rank 1 both ways, the others at 20."""
    ranks = np.where(np.arange(num_images) < found, 1, 20)
    return Queries.from_ranks(ranks, ranks, np.arange(num_images), [f"{image}.jpg" for image in range(num_images)])


@pytest.fixture
def cells(tmp_path):
    (tmp_path / "grid.yaml").write_text(json.dumps(GRID))
    grid = Grid.read(tmp_path / "grid.yaml")
    return grid, Cells(grid, tmp_path / "out").chosen([0, 1])


def finish(cells, row, seed, scores, machine="two cores"):
    (cell,) = [cell for cell in cells if (cell.row.name, cell.seed) == (row, seed)]
    write_run(cell.task.folder / "validate" / "version_0", {(score, "own"): of for score, of in scores.items()})
    (cell.task.folder / "done.json").write_text(json.dumps({"seconds": 1, "machine": machine}))


@pytest.fixture
def finished(cells):
    """InfoNCE finds 10 and 12 images, AsCL 14 and 16, its local level 2; one row is not run."""
    grid, every = cells
    for seed, found in enumerate((10, 12)):
        finish(every, "infonce", seed, {"fused": queries(found), "reranked": queries(found + 1)})
    for seed, found in enumerate((14, 16)):
        scores = {"fused": queries(found), "local": queries(2), "independent": queries(11)}
        finish(every, "ascl", seed, scores, machine="a card")
    return grid, every


def test_means_and_differences_by_hand(finished):
    (group,) = Outcomes(finished[1]).groups()

    infonce, ascl = group.rows
    # 11 of 20 found on average, six recalls
    assert infonce.figures["fused", "rsum"].value == pytest.approx(6 * 100 * 11 / 20)
    assert infonce.figures["fused", "text_to_image/recall_at_5"].value == pytest.approx(55)
    # without another level, the embeddings give the fused score
    assert infonce.figures["independent", "rsum"] == infonce.figures["fused", "rsum"]
    assert ascl.figures["local", "rsum"].value == pytest.approx(60)
    differences = {score: of.value for (score, name), of in ascl.differences.items() if name == "rsum"}
    assert differences == pytest.approx({"fused": 6 * 100 * 4 / 20, "independent": 0})
    # images 10 to 13 or 12 to 15 of 20 are found by AsCL alone: 4 of 20 with either seed
    fused = ascl.differences["fused", "rsum"]
    assert 0 <= fused.low < 120 < fused.high
    assert (ascl.seeds, infonce.differences) == ([0, 1], {})


def test_only_shared_seeds_are_compared(cells):
    _, every = cells
    for seed, found in enumerate((10, 12)):
        finish(every, "infonce", seed, {"fused": queries(found)})
    finish(every, "ascl", 1, {"fused": queries(14)})

    (group,) = Outcomes(every).groups()

    assert group.rows[1].differences["fused", "rsum"].value == pytest.approx(6 * 100 * 2 / 20)
    assert group.rows[1].seeds == [1]


def test_p_values_are_corrected_for_the_rows(finished):
    finish(finished[1], "words", 0, {"fused": queries(14)})

    rows = Outcomes(finished[1]).groups()[0].rows

    better, equal = (row.differences["fused", "rsum"] for row in rows[1:])
    assert (equal.value, equal.p_value) == (0, 1)
    assert better.holm_p_value == pytest.approx(2 * better.p_value)


def test_the_document(finished):
    grid, every = finished

    text = document(grid, every, "ascl experiment --grid grid.yaml")

    assert "ascl experiment --grid grid.yaml" in text
    assert "- Seeds: 0, 1. 4 of 6 runs (a row of a group with one seed) are finished." in text
    assert "- Machines: two cores, 2 runs; a card, 2 runs." in text
    assert "- A sentence about the data." in text
    assert "\nTiny towers.\n" in text
    assert "| row | fused | independent | local | reranked |" in text
    rows = [line for line in text.splitlines() if line.startswith(("| infonce", "| ascl"))]
    assert rows[0].startswith("| infonce | 330.0 (")
    assert rows[2].startswith("| ascl | infonce | +120.0 (")
    assert rows[-2] == "| infonce | plain | `--config baselines/infonce` | 0, 1 | 1 |"
    assert rows[-1] == "| ascl |  | none | 0, 1 | 7 |"
    assert "words" not in text.partition("### Rows")[2]
    assert "Report card" not in text.partition("## scenes")[2]


def test_type_i_over_operations_that_a_row_was_not_trained_on(finished, monkeypatch):
    """AsCL was trained on shuffles, and InfoNCE on swaps: they are compared on drops alone."""
    shares = {
        "infonce": {"shuffle": 50.0, "drop": 60.0, "swap": 80.0},
        "ascl": {"shuffle": 90.0, "drop": 75.0, "swap": 65.0},
    }
    for cell in finished[1]:
        if cell.task.is_done:
            folder = cell.task.folder / "validate" / "version_0"
            (folder / "report_card.json").touch()
            write_variants(folder, "a kite red")

    def card(folder):
        row = folder.parents[2].name.partition("-")[0]
        return SimpleNamespace(
            ladders=[SimpleNamespace(type="I", operation=name) for name in shares[row]],
            drawn=lambda: {"I": {"fused": np.full(2001, 70.0)}},
            drawn_rsum=lambda *_: np.full(2001, 200.0),
            drawn_preference=lambda operations, _: np.full(2001, shares[row][operations[0]]),
            drawn_control=lambda _: np.full(2001, 55.0),
            unseen_operations=["drop", "swap"] if row == "ascl" else ["shuffle", "drop"],
        )

    monkeypatch.setattr("ascl_lightning.experiment.outcomes.read_card", card)

    infonce, ascl = Outcomes(finished[1]).groups()[0].rows

    assert infonce.figures["fused", "unseen"].value == 55
    assert ascl.figures["fused", "unseen"].value == 70
    assert ascl.figures["fused", "control"].value == 55
    assert ascl.differences["fused", "unseen"].value == 15
    assert ascl.differences["fused", "I"].value == 0
    text = document(*finished, "ascl experiment")
    assert "| row | I: T above T- | I: not trained on | the same without the picture | II: rSum" in text
    assert "| row | baseline | I: T above T- | I: not trained on | II: rSum" in text


def write_variants(folder, text):
    ladder = Ladder("I", "shuffle", "", 0.0, (VariantStep(1.0, (text,)),))
    Variants.of(0, [0], ["a red kite"], [ladder], {}).save(folder / "variants.parquet", ["0.jpg"])


def test_report_cards_of_other_variants_are_refused(finished, monkeypatch):
    for cell in finished[1]:
        if cell.task.is_done:
            folder = cell.task.folder / "validate" / "version_0"
            (folder / "report_card.json").touch()
            write_variants(folder, "a kite red" if cell.row.name == "infonce" else "kite a red")
    empty = SimpleNamespace(
        ladders=[], unseen_operations=[], drawn=dict, drawn_rsum=lambda *_: None, drawn_preference=None
    )
    monkeypatch.setattr("ascl_lightning.experiment.outcomes.read_card", lambda folder: empty)

    with pytest.raises(UserError, match="have other variants: run all cells with WordNet or all without"):
        Outcomes(finished[1]).groups()


def test_a_document_of_nothing(cells):
    grid, every = cells

    text = document(grid, every, "ascl experiment")

    assert "0 of 6 runs" in text
    assert "Machines: none." in text
    assert "## scenes" not in text


def test_cells_of_other_data_are_refused(finished):
    finish(finished[1], "words", 0, {"fused": queries(14, num_images=19)})

    with pytest.raises(UserError, match=r"were validated on different data: give another --out"):
        Outcomes(finished[1]).groups()
