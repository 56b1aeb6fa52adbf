"""The folder of a run, made by hand: small files in the formats that the callbacks write."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ascl_lightning.metrics.query_results import Queries, write_queries

CONFIG = """\
seed_everything: 0
# <&>
model:
  image_encoder: {class_path: ascl_lightning.models.TimmImageEncoder, init_args: {name: convnext_tiny}}
  text_encoder: {class_path: ascl_lightning.models.towers.text.GruTextEncoder, init_args: {width: 32}}
data:
  root: /data/kites & hats/
  source: {class_path: ascl_lightning.data.sources.karpathy.KarpathyJson}
"""
WAYS = ("image_to_text", "text_to_image")


def figures(recall: float, rank: float) -> dict[str, dict[str, float]]:
    """Figures of one score, each with an interval of one up and down."""
    values = {f"{way}/recall_at_{k}": recall + k for way in WAYS for k in (1, 5, 10)}
    values |= {f"{way}/{kind}_rank": rank for way in WAYS for kind in ("median", "mean")}
    values["rsum"] = sum(value for name, value in values.items() if "recall" in name)
    return {name: {"value": value, "low": value - 1.25, "high": value + 1.25} for name, value in values.items()}


def results(**changes: Any) -> dict[str, Any]:
    """What `results.json` holds."""
    return {
        "split": "test",
        "num_images": 1000,
        "num_texts": 5000,
        "truncated_texts": 12,
        "checkpoint": "runs/fit/version_3/checkpoints/best.ckpt",
        "training": None,
        "command": "ascl test --config configs/scenes.yaml --ckpt_path best",
        "data": {"images": "0123abcd", "captions": "89abcdef"},
        "leaks": [],
        "unchecked": ["overlap of images: the checkpoint names no training data"],
        "notes": ["the checkpoint is of another machine"],
        "scores": {"fused": figures(40.5, 3.0), "independent": figures(30.25, 7.0)},
        "protocols": {"folds": {"fused": figures(60.0, 2.0)}},
        "ceiling": {"image_to_text/recall_at_1": 99.0, "text_to_image/recall_at_1": 98.0, "rsum": 590.0},
        "seconds": {"scoring": 12.5},
    } | changes


def card() -> dict[str, Any]:
    """What `report_card.json` holds."""
    curve = {
        **{"type": "III", "name": "keep_words", "exact": False, "score": "fused", "direction": "text_to_image"},
        **{"metric": "recall_at_1", "x_label": "% of the words", "x": [100.0, 75.0, 50.0, 25.0]},
        **{"y": [40.0, 35.5, 22.0, 9.5], "low": [38.0, 33.0, 20.0, 8.0], "high": [42.0, 38.0, 24.0, 11.0]},
        **{"n": [5000] * 4, "area": 27.6, "area_low": 26.0, "area_high": 29.0, "slope": 0.4},
    }
    independent = curve | {"score": "independent", "y": [30.0, 26.0, 15.0, 6.0], "low": [29.0] * 4, "high": [31.0] * 4}
    by_length = curve | {"type": "length", "name": "caption_length", "x_label": "words of the caption"}
    by_length |= {"x": [4.5, 9.5], "y": [50.0, 30.0], "low": [45.0, 20.0], "high": [55.0, 40.0], "n": [9, 30]}
    wrong = curve | {"type": "I", "x_label": "0 as it is, 1 changed", "x": [0.0, 1.0], "y": [40.0, 31.0]}
    wrong |= {"low": [38.0, 29.0], "high": [42.0, 33.0], "n": [900, 900]}
    value = {
        "fused": {"value": 70.0, "low": 68.0, "high": 72.0},
        "independent": {"value": 60.0, "low": 58, "high": 62.0},
    }
    unseen = {name: figure | {"value": 61.5} for name, figure in value.items()}
    control = {"value": 52.5, "low": 49.0, "high": 56.0}
    swapped = {"operation": "swap_words", "n": 900, "trained_on": True, "control": control}
    wrongs = {"definition": "how often a caption beats one with something wrong", "value": value, "control": control}
    wrongs["unseen"] = {"definition": "not trained on", "operations": ["number"], "value": unseen, "control": control}
    return {
        "captions": "one",
        "scores": ["fused", "independent"],
        "split": "test",
        "seed": 0,
        "types": {
            "I": wrongs,
            "II": {"definition": "area under recall over captions appended", "value": value},
            "III": {"definition": "area under recall over the share of words kept", "value": value},
        },
        "area": "mean height of the curve",
        "control": "how often the text encoder prefers the caption without the picture",
        "curves": [
            *(curve, curve | {"metric": "recall_at_5"}, independent, by_length),
            *(wrong | {"name": "swap_words"}, wrong | {"name": "number"}),
        ],
        "discrimination": [
            swapped | {"score": "fused", "value": 71.5, "low": 70.0, "high": 73.0},
            swapped | {"score": "independent", "value": 50.5, "low": 49.0, "high": 52.0},
            {
                **{"operation": "number", "score": "fused", "n": 40, "trained_on": False, "control": None},
                **{"value": 55.0, "low": 40.0, "high": 70.0},
            },
        ],
        "not_run": [{"operation": "relation", "reason": "no caption holds one"}],
        "truncated": {"unchanged": 3, "keep_words": {"75": 1}},
    }


def image(row: int, suffix: str = "") -> dict[str, Any]:
    """An image as the files name it."""
    return {"row": row, "image_id": f"photo <{row}>", "picture": f"pictures/{row}{suffix}.webp"}


def text(row: int, caption: str | None = None) -> dict[str, Any]:
    """A text as the files name it."""
    return {"row": row, "image_id": f"photo <{row // 5}>", "caption": caption or f"a dog & number {row}"}


def examples() -> dict[str, Any]:
    """What `examples.json` holds: each query is right, or finds its own only at rank 7."""
    hit = {"score": 0.75, "correct": True}
    misses = [{"score": 0.5 - 0.0625 * place, "correct": False} for place in range(5)]
    far = {"score": 0.0625, "correct": True}
    right, wrong = ("right", "slowest"), ("wrong", "worst")
    return {
        "score": "fused",
        "worst": {
            "image_to_text": [{"query": 1, "caption": "a <dog> by the sea"}],
            "text_to_image": [{"query": 2, "caption": "two kites"}, {"query": 0, "caption": "a hat"}],
        },
        "image_to_text": [
            {"query": image(0), "rank": 1, "why": right, "results": [text(1) | hit], "truth": text(1) | hit},
            {
                **{"query": image(1), "rank": 7, "why": wrong},
                **{"results": [text(20 + n) | of for n, of in enumerate(misses)], "truth": text(5) | far},
            },
        ],
        "text_to_image": [
            {
                **{"query": text(10), "rank": 7, "why": wrong},
                **{"results": [image(n) | of for n, of in enumerate(misses)], "truth": image(2) | far},
            },
        ],
    }


def attention() -> dict[str, Any]:
    """What `attention.json` holds: the two words of a pair, over a grid of two by two."""
    pair = {
        "image": image(0, "-fed"),
        "text": text(1, "red dog"),
        "words": ["red", "dog"],
        "word_to_region": [[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.5, 0.0]],
        "region_to_word": [[0.6, 0.4], [0.5, 0.5], [0.2, 0.8], [0.9, 0.1]],
        "word_support": [0.625, -0.25],
        "region_support": [0.5, 0.25, 0.125, 0.0],
    }
    wrong = pair | {"direction": "text_to_image", "score": 0.5, "correct": False}
    right = pair | {"direction": "image_to_text", "score": 0.75, "correct": True}
    return {"grid": 2, "pairs": [right, wrong], "reason": None}


def histograms() -> dict[str, Any]:
    """What `histograms.json` holds."""
    counts = {"positive": [0, 1, 9], "other": [80, 10, 0], "T-": [1, 5, 4], "T+": [0, 3, 7]}
    return {"score": "fused", "edges": [-0.5, 0.0, 0.5, 1.0], "counts": counts}


def latency() -> dict[str, Any]:
    """What `latency.json` holds."""
    searches = [
        {
            **{"direction": way, "search": search, "scored": scored, "median": median},
            "queries": [{"row": 0, "milliseconds": median - 1}, {"row": 9, "milliseconds": median + 5.5}],
        }
        for way in WAYS
        for search, scored, median in (("full", 5000, 120.0), ("two_stage", 250, 8.0))
    ]
    return {
        **{"device": "cpu", "threads": 2, "shortlist": 0.05, "num_images": 1000, "num_texts": 5000},
        "searches": searches,
    }


def write_metrics(folder: Path) -> None:
    """A training run's `metrics.csv`: losses at each step, metrics at the end."""
    rows = [
        {"step": 0, "train/loss": 4.5, "train/loss_type_i": 4.0, "train/loss_type_ii_iii": 5.0},
        {"step": 1, "train/loss": 2.5, "train/loss_type_i": 2.0, "train/loss_type_ii_iii": 3.0},
        {
            "step": 1,
            "val/rsum": 250.0,
            "val/alignment": 1.25,
            "val/uniformity/image": -3.5,
            "val/uniformity/text": -3.0,
        },
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(buffer.getvalue())


def queries() -> dict[tuple[str, str], Queries]:
    """Ranks of three images and of three texts, by two scores."""
    ids, owner = [f"photo <{number}>" for number in range(3)], np.arange(3)
    return {
        ("fused", "own"): Queries.from_ranks(np.array([1, 4, 2]), np.array([1, 1, 9]), owner, ids),
        ("independent", "own"): Queries.from_ranks(np.array([3, 4, 2]), np.array([2, 1, 30]), owner, ids),
    }


def write_run(root: Path, without: tuple[str, ...] = (), **changes: Any) -> Path:
    """Writes a whole run and the training run that it names.

    Args:
        root: Folder to write into.
        without: Files that are not written.
        changes: Of `results.json`.

    Returns:
        The run's folder.
    """
    run, training = root / "test", root / "fit"
    (run / "pictures").mkdir(parents=True)
    write_metrics(training)
    files = {
        "results.json": results(**{"training": str(training)} | changes),
        "report_card.json": card(),
        "examples.json": examples(),
        "attention.json": attention(),
        "histograms.json": histograms(),
        "latency.json": latency(),
    }
    for name, content in files.items():
        if name not in without:
            (run / name).write_text(json.dumps(content))
    if "queries.parquet" not in without:
        write_queries(run / "queries.parquet", queries())
    for row in range(5):
        for suffix in ("", "-fed"):
            Image.new("RGB", (24, 16 + 8 * bool(suffix)), (50 * row, 90, 160)).save(
                run / f"pictures/{row}{suffix}.webp"
            )
    if "config.yaml" not in without:
        (run / "config.yaml").write_text(CONFIG)
    return run
