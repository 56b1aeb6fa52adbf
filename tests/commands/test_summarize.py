import json
import math
from pathlib import Path

import pytest
from tests.helpers.runs import make_queries, write_run

from ascl_lightning.__main__ import main
from ascl_lightning.commands.runs import open_runs
from ascl_lightning.commands.summarize import summarize

QUERIES = {("fused", "own"): make_queries(0, 6), ("fused", "eccv"): make_queries(1, 6)}


def write_figures(folder, recall, protocols=("eccv",), **results):
    figures = {name: {"value": recall, "low": 0.0, "high": 100.0} for name in ("image_to_text/recall_at_1", "rsum")}
    of_protocols = {protocol: {"fused": figures} for protocol in protocols}
    return write_run(folder, QUERIES, scores={"fused": figures}, protocols=of_protocols, **results)


def test_spread_over_seeds(tmp_path, capsys):
    runs = [str(write_figures(tmp_path / str(recall), recall)) for recall in (70.0, 74.0, 78.0)]

    assert main(["summarize", *runs]) == 0

    # 4.303 is the quantile of t with two degrees of freedom
    reach = 4.302653 * 4 / math.sqrt(3)
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "fused i2t R@1" in line)
    for cell in ("74.0", "4.00", f"[{74 - reach:.1f}, {74 + reach:.1f}]"):
        assert cell in row
    assert "fused, eccv rSum" in printed
    assert "3 runs: " in printed
    assert len(printed.splitlines()) <= 24
    assert "too few" not in printed


def test_two_seeds_are_too_few_for_an_interval(tmp_path, capsys):
    runs = [str(write_figures(tmp_path / str(recall), recall)) for recall in (70.0, 74.0)]

    assert main(["summarize", *runs]) == 0

    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "i2t R@1" in line)
    assert row.split() == ["fused", "i2t", "R@1", "72.0", "2.83"]
    assert "Two runs are too few for a confidence interval" in printed
    assert "95%" not in printed


def test_only_what_all_runs_have(tmp_path):
    a = write_figures(tmp_path / "a", 70.0)
    b = write_figures(tmp_path / "b", 71.0, protocols=())

    assert list(summarize(open_runs([str(a), str(b)]))) == [("own", "fused")]


@pytest.mark.parametrize(
    ("results", "message"),
    [({"split": "val"}, "the split is test"), ({"scores": {"local": {}}}, "share no score")],
)
def test_runs_that_cannot_be_combined(tmp_path, capsys, results, message):
    a = write_run(tmp_path / "a", {("fused", "own"): QUERIES["fused", "own"]})
    b = write_run(tmp_path / "b", {("fused", "own"): QUERIES["fused", "own"]}, **results)

    assert main(["summarize", str(a), str(b)]) == 2
    assert message in capsys.readouterr().err


def test_a_training_counts_once(tmp_path, capsys):
    a, b = (write_figures(tmp_path / name, 70.0, checkpoint=f"{name}/best.ckpt") for name in "ab")
    again = write_figures(tmp_path / "again", 71.0, checkpoint="a/best.ckpt")

    assert main(["summarize", str(a), str(b), str(a)]) == 2
    assert f"'{a}' and '{a}' are the same run: give runs of trainings with different seeds" in capsys.readouterr().err
    assert main(["summarize", str(a), str(b), str(again)]) == 2
    assert f"'{a}' and '{again}' are both of {Path('a/best.ckpt').absolute()}" in capsys.readouterr().err


def test_errors(tmp_path, capsys):
    run = write_figures(tmp_path / "a", 70.0)
    assert main(["summarize", str(run)]) == 2
    assert "give at least two runs" in capsys.readouterr().err
    broken = write_figures(tmp_path / "b", 70.0)
    (broken / "results.json").write_text(json.dumps(json.loads((run / "results.json").read_text()) | {"scores": [1]}))
    assert main(["summarize", str(run), str(broken)]) == 2
    assert "has no metrics by score" in capsys.readouterr().err
