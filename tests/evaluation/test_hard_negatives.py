"""Benchmarks of hard negatives: figures of planted scorers by hand, and a test through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluation.test_tables import printed
from tests.helpers.datasets import make_captions, write_karpathy, write_picture
from tests.helpers.report_pages import Page, looked_up
from torch import Tensor

from ascl_lightning.__main__ import main
from ascl_lightning.data.batch import Features
from ascl_lightning.data.sources.base import Choice
from ascl_lightning.evaluation.hard_negatives import distinct_texts, measured_rows
from ascl_lightning.evaluation.tables import hard_negatives_table
from ascl_lightning.metrics import RetrievalMetrics
from ascl_lightning.metrics.gallery import Gallery, Level
from ascl_lightning.metrics.intervals import mean_interval

TINY = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")
TESTS = [
    Choice("swap", (0,), ("red kite", "Blue kite!")),
    Choice("swap", (1,), ("blue kite", "red kite")),
    Choice("add", (2,), ("hill", "red hill", "blue hill")),
    Choice("pair", (0, 1), ("red kite", "blue kite")),
]
WORDS = ("red", "blue", "kite", "hill")


def vector(text: str) -> Tensor:
    """Of length 1, with a part for each word."""
    counts = torch.tensor([float(text.split().count(word)) for word in WORDS])
    return counts / counts.norm()


def gallery_of(images: Tensor, texts: list[str], score=None, levels=None) -> Gallery:
    def features(vectors: Tensor) -> Features:
        return Features(vectors, vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool))

    metric = RetrievalMetrics(score or (lambda i, t: i.pooled @ t.pooled.T), levels=levels)
    vectors = torch.stack([vector(text) for text in texts])
    numbers = torch.arange(len(images)), torch.arange(len(texts))
    owner = torch.zeros(len(texts), dtype=torch.long)
    metric.update(features(images), numbers[0], features(vectors), numbers[1], owner, images, vectors)
    return metric.gallery()


def values(rows: list[dict], score: str) -> dict[tuple[str, str], float | None]:
    return {(row["category"], row["figure"]): (row["scores"] | {"control": row["control"]})[score] for row in rows}


def test_figures_by_hand():
    """The images are a red kite, a red kite that should be blue, and a hill; the score counts common words."""
    images = torch.stack([vector("red kite"), vector("red kite"), vector("hill")])
    texts = distinct_texts(TESTS)
    assert texts == ["red kite", "blue kite", "hill", "red hill", "blue hill"]
    rows = measured_rows(TESTS, texts, gallery_of(images, texts))
    assert [(row["category"], row["figure"], row["n"]) for row in rows] == [
        *(("swap", "accuracy", 2), ("add", "accuracy", 1)),
        *(("pair", "text", 1), ("pair", "image", 1), ("pair", "group", 1)),
        *(("all", "accuracy", 3), ("all", "text", 1), ("all", "image", 1), ("all", "group", 1)),
    ]
    fused = {key: figure["value"] for key, figure in values(rows, "fused").items()}
    # the second image prefers the red kite; the hill has no colour
    assert fused["swap", "accuracy"] == 50
    assert fused["add", "accuracy"] == 100
    assert fused["all", "accuracy"] == pytest.approx(100 * 2 / 3)
    assert [fused["pair", figure] for figure in ("text", "image", "group")] == [0, 0, 0]
    # the control sees red kite and hill for both of the first images, and red kites for the hill
    control = {key: figure["value"] for key, figure in values(rows, "control").items()}
    assert control["swap", "accuracy"] == 50
    assert control["add", "accuracy"] == 0
    assert [control["pair", figure] for figure in ("text", "image", "group")] == [0, 0, 0]


def test_intervals_are_over_images():
    """Two tests of one image are one draw."""
    tests = [Choice("x", (row,), ("red kite", "blue kite")) for row in (0, 0, 1, 2, 2, 2)]
    images = torch.stack([vector("red"), vector("blue"), vector("red")])
    (row,) = measured_rows(tests, distinct_texts(tests), gallery_of(images, distinct_texts(tests)))
    expected = mean_interval(np.array([1, 1, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 2, 2]))
    found = row["scores"]["fused"]
    assert [found[of] / 100 for of in ("value", "low", "high")] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )


def test_a_constant_scorer_solves_nothing():
    """A perfect and a blind level stand beside it."""
    images, texts = torch.stack([vector("red kite"), vector("blue kite"), vector("hill")]), distinct_texts(TESTS)
    levels = {
        "local": Level(0.5, lambda i, t: torch.ones(len(i.pooled), len(t.pooled))),
        "independent": Level(0.5, lambda i, t: i.pooled @ t.pooled.T),
    }
    rows = measured_rows(TESTS, texts, gallery_of(images, texts, levels=levels))
    assert list(rows[0]["scores"]) == ["fused", "local", "independent"]
    assert {figure["value"] for figure in values(rows, "local").values()} == {0}
    for score in ("independent", "fused"):
        assert {figure["value"] for figure in values(rows, score).values()} == {100}


def test_without_another_image_there_is_no_control():
    tests = [Choice("x", (0,), ("red kite", "blue kite"))]
    (row,) = measured_rows(tests, distinct_texts(tests), gallery_of(vector("red")[None], distinct_texts(tests)))
    assert (row["control"], row["scores"]["fused"]["value"]) == (None, 100)


def test_the_table_fits_into_eighty_columns():
    figure = {"value": 71.25, "low": 70.0, "high": 100.0}
    scores = dict.fromkeys(("fused", "local", "global", "independent"), figure)
    row = {"category": "visual_genome_attribution", "figure": "accuracy", "n": 28748, "control": figure}
    rows = [row | {"scores": scores}, row | {"scores": scores, "category": "all", "figure": "group", "control": None}]
    shown = printed(hard_negatives_table("Test split", {"rows": rows}))
    assert "\u2026" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    lines = [line.split() for line in shown.splitlines()]
    assert ["visual", "genome", "28,748", "71.2", *["71.2"] * 4] in lines
    assert ["attribution", *["[70.0,100]"] * 4] in lines
    assert ["all,", "group", "28,748", *["71.2"] * 4] in lines


def write_benchmark(root: Path) -> None:
    """Six images with two tests each in one file, and a two-by-two of the first two in another."""
    records, names = {}, [f"{row}.png" for row in range(6)]
    for row, name in enumerate(names):
        write_picture(root / "images" / name, 100 + row)
        for number, text in enumerate(make_captions(100 + row, 2)):
            wrong = " ".join(reversed(text.split()))
            records[f"{row}_{number}"] = {"filename": name, "caption": text, "negative_caption": wrong}
    (root / "reversed.json").write_text(json.dumps(records))
    pair = {
        "image_0": "0",
        "image_1": "1",
        "caption_0": "a red dog",
        "caption_1": "a dog red",
        "collapsed_tag": "Order",
    }
    (root / "pairs.jsonl").write_text(json.dumps(pair))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hard_negatives")
    write_karpathy(root / "data", {"train": 9, "val": 4, "test": 3}, captions=2)
    write_benchmark(root / "benchmark")
    flags = ["--data.root", str(root / "data"), "--trainer.default_root_dir", str(root), "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", TINY, *flags]) == 0
    return root


def flags(root: Path, runs: str, *more: str) -> list[str]:
    source = ["--data.source", "HardNegatives", "--data.source.files", "[reversed.json, pairs.jsonl]"]
    where = ["--data.root", str(root / "benchmark"), "--trainer.default_root_dir", str(root / runs)]
    return ["--config", TINY, *source, *where, *more]


def test_a_benchmark_is_tested_and_not_ranked(root, capsys):
    checkpoint = str(next(root.glob("fit/*/checkpoints/best.ckpt")))
    assert main(["test", *flags(root, "tested", "--ckpt_path", checkpoint, "--retrieval", "two_stage")]) == 0
    shown = capsys.readouterr().out
    assert "Test split: hard negatives, %" in shown
    run = root / "tested" / "test" / "version_0"
    content = json.loads((run / "hard_negatives.json").read_text())
    assert (content["num_images"], content["num_tests"], content["left_out"]) == (6, 13, {})
    assert [(row["category"], row["figure"], row["n"]) for row in content["rows"][:4]] == [
        ("reversed", "accuracy", 12),
        *(("Order", figure, 1) for figure in ("text", "image", "group")),
    ]
    assert list(content["rows"][0]["scores"]) == ["fused", "local", "global", "independent"]
    results = json.loads((run / "results.json").read_text())
    assert (results["scores"], results["leaks"], results["num_images"]) == ({}, [], 6)
    logged = results["metrics"]["test/hard_negatives/reversed/accuracy/fused"]
    assert logged == pytest.approx(content["rows"][0]["scores"]["fused"]["value"], abs=1e-4)
    assert "test/rsum" not in results["metrics"]
    ranked = ("queries.parquet", "examples.json", "report_card.json", "two_stage.json", "histograms.json")
    assert not [name for name in ranked if (run / name).exists()]
    page = Page(run / "report.html")
    assert page.sections == ["hard-negatives", "training", "checks", "provenance"]
    assert "Control: How often the text encoder prefers" in page.text
    for value, source, _ in page.numbers:
        assert float(value) == looked_up(run, source), source


def test_a_benchmark_is_not_trained_on(root, capsys):
    assert main(["fit", *flags(root, "fitted")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "hard negatives" in line]
    assert "no split 'train'; a benchmark has the split 'test' only: use it with `ascl test`" in line
