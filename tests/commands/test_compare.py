import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from tests.helpers.runs import make_queries, write_run

from ascl_lightning.__main__ import main
from ascl_lightning.evaluation.report_card import stored_card
from ascl_lightning.metrics.intervals import Difference, compare
from ascl_lightning.metrics.query_results import Queries

WEAK, STRONG = make_queries(0, 6), make_queries(1, 0.3)


@pytest.fixture
def runs(tmp_path):
    a = write_run(tmp_path / "a", {("fused", "own"): WEAK, ("local", "own"): WEAK, ("fused", "eccv"): WEAK})
    b = write_run(tmp_path / "b", {("fused", "own"): STRONG, ("fused", "eccv"): WEAK, ("global", "own"): STRONG})
    return a, b


def test_figures_of_shared_scores(runs, tmp_path, capsys):
    assert main(["compare", *map(str, runs), "--json", str(tmp_path / "out.json")]) == 0

    out = json.loads((tmp_path / "out.json").read_text())
    printed = capsys.readouterr().out
    expected = compare(WEAK, STRONG)["image_to_text/recall_at_1"]
    assert out["scores"].keys() == {"fused"}
    assert out["protocols"].keys() == {"eccv"}
    assert out["scores"]["fused"]["image_to_text/recall_at_1"] == {
        "a": expected.a,
        "b": expected.b,
        "value": expected.b - expected.a,
        "low": expected.low,
        "high": expected.high,
        "p_value": expected.p_value,
        "holm_p_value": expected.holm_p_value,
    }
    assert (out["a"], out["b"]) == tuple(map(str, runs))
    row = next(line for line in printed.splitlines() if "fused i2t R@1 " in line)
    for cell in (f"{expected.a:.1f}", f"{expected.b:.1f}", f"{expected.value:+.1f}", f"{expected.p_value:.4f}", "*"):
        assert cell in row
    assert "fused, eccv rSum" in printed
    assert f"[{expected.low:+.1f}, {expected.high:+.1f}]" in row
    lines = printed.replace(str(tmp_path), "").splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "all metrics: " in printed


def test_a_run_does_not_differ_from_itself(runs, tmp_path, capsys):
    assert main(["compare", str(runs[0]), str(runs[0]), "--json", str(tmp_path / "out.json")]) == 0

    for of_score in json.loads((tmp_path / "out.json").read_text())["scores"].values():
        for difference in of_score.values():
            assert (difference["value"], difference["low"], difference["high"]) == (0, 0, 0)
            assert difference["p_value"] == difference["holm_p_value"] == 1
    assert "*" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"split": "val"}, "the split is test in the first and val in the second"),
        ({"num_images": 59}, "the number of images is 60 in the first and 59 in the second"),
        ({"data": {"images": "cd"}}, "the fingerprint of images is ab in the first and cd in the second"),
    ],
)
def test_other_data_are_refused(tmp_path, capsys, results, message):
    a = write_run(tmp_path / "a", {("fused", "own"): WEAK}, data={"images": "ab", "captions": "01"})
    b = write_run(tmp_path / "b", {("fused", "own"): WEAK}, **results)

    assert main(["compare", str(a), str(b)]) == 2
    assert message in capsys.readouterr().err


def test_the_same_data_in_another_order(tmp_path, capsys):
    """As if the images of the second run had been read in reverse: all differences stay the same."""
    a = write_run(tmp_path / "a", {("fused", "own"): WEAK}, data={"images": "ab", "captions": "01", "any_order": "ef"})
    data = {"images": "cd", "captions": "23", "any_order": "ef"}
    same, turned = (
        write_run(tmp_path / name, {("fused", "own"): queries}, data=data)
        for name, queries in (("same", STRONG), ("turned", reversed_images(STRONG)))
    )

    for run in (same, turned):
        assert main(["compare", str(a), str(run), "--json", str(run / "out.json")]) == 0

    first, second = (json.loads((run / "out.json").read_text())["scores"] for run in (same, turned))
    assert second == first
    assert first["fused"]["rsum"]["p_value"] < 0.05


def reversed_images(queries, num_images=60, num_texts=3):
    images, texts = queries.image_to_text.rank, queries.text_to_image.rank.reshape(num_images, num_texts)
    owner = np.arange(num_images).repeat(num_texts)
    ids = [f"{image}.jpg" for image in reversed(range(num_images))]
    return Queries.from_ranks(images[::-1], texts[::-1].flatten(), owner, ids)


def test_other_queries_are_refused(tmp_path, capsys):
    a = write_run(tmp_path / "a", {("fused", "own"): WEAK})
    b = write_run(tmp_path / "b", {("fused", "own"): make_queries(0, 6, num_images=59)})

    assert main(["compare", str(a), str(b)]) == 2
    assert "cannot be compared: image_to_text: the queries of the runs differ" in capsys.readouterr().err


def test_runs_that_share_no_score(tmp_path, capsys):
    a, b = (write_run(tmp_path / score, {(score, "own"): WEAK}) for score in ("two_stage", "local"))

    assert main(["compare", str(a), str(b)]) == 2
    assert f"'{a}' has two stage, and '{b}' has local" in capsys.readouterr().err


def test_report_cards_are_compared_if_both_have_one(runs, tmp_path, capsys, monkeypatch):
    found = {"two_stage": {"I, unseen in both": Difference(50.0, 61.5, 11.5, 2.5, 20.0, 0.0125, 0.0375)}}
    monkeypatch.setattr(stored_card, "compare_cards", lambda a, b: found if (a, b) == runs else None)
    out = tmp_path / "out.json"
    (runs[0] / "report_card.json").write_text("{}")
    assert main(["compare", *map(str, runs), "--json", str(out)]) == 0
    assert "report_card" not in json.loads(out.read_text())
    (runs[1] / "report_card.json").write_text("{}")
    capsys.readouterr()
    assert main(["compare", *map(str, runs), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["report_card"]["two_stage"]["I, unseen in both"] == asdict(
        found["two_stage"]["I, unseen in both"]
    )
    row = next(line for line in capsys.readouterr().out.splitlines() if "unseen in both" in line)
    assert len(row) <= 80
    assert row.split() == [
        *("two", "stage", "I,", "unseen", "in", "both"),
        *("50.0", "61.5", "+11.5", "[+2.5,", "+20.0]", "0.0125", "0.0375", "*"),
    ]
    found.clear()
    assert main(["compare", *map(str, runs)]) == 0
    assert "report cards have other variants" in capsys.readouterr().out


def test_a_leak_is_printed(tmp_path, capsys):
    leaks = [{"kind": "selection", "message": "the checkpoint was chosen on this split"}]
    a = write_run(tmp_path / "a", {("fused", "own"): WEAK})
    b = write_run(tmp_path / "b", {("fused", "own"): STRONG}, leaks=leaks)

    assert main(["compare", str(a), str(b)]) == 0
    assert "Data leak in B: the checkpoint was chosen on this split" in capsys.readouterr().out


def test_folders_and_files_that_cannot_be_used(runs, tmp_path, capsys):
    assert main(["compare", str(tmp_path / "nowhere"), str(runs[0])]) == 2
    assert "there is no folder" in capsys.readouterr().err
    inside = runs[0] / "results.json" / "comparison.json"
    assert main(["compare", *map(str, runs), "--json", str(inside)]) == 2
    assert f"cannot write '{inside}'" in capsys.readouterr().err
    (runs[0] / "queries.parquet").unlink()
    assert main(["compare", *map(str, runs)]) == 2
    assert "queries.parquet" in capsys.readouterr().err


def test_torch_is_not_needed(runs):
    code = f"""
import sys
from ascl_lightning.__main__ import main
main(["compare", {str(runs[0])!r}, {str(runs[1])!r}])
main(["summarize", {str(runs[0])!r}, {str(runs[1])!r}])
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
