"""Data sets to plant faults in, and what `ascl check` makes of them; any test may use it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ascl_lightning.__main__ import main
from ascl_lightning.data.batch import Features
from ascl_lightning.data.stored_features import FeatureTable, Manifest, write_shard

TINY = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")

Found = dict[tuple[str, str | None, str | None], tuple[str, int, int]]
Row = dict[str, Any]


class DataSet:
    """Rows and pictures that are written when all is planted; every picture and caption is another one."""

    def __init__(self, root: Path, **sizes: int) -> None:
        self.root = root
        self.rows: dict[str, list[Row]] = {}
        for number, (split, size) in enumerate(sizes.items()):
            self.rows[split] = [self._row(split, 100 * number + i) for i in range(size)]

    def _row(self, split: str, index: int) -> Row:
        name = f"{split}/{index}.png"
        (self.root / split).mkdir(parents=True, exist_ok=True)
        texture(index, (80, 60)).save(self.root / name)
        captions = [f"picture number {index} shows", f"{index} things seen here"]
        return {"image": name, "image_id": f"{split}-{index}", "captions": captions}

    def path(self, split: str, place: int) -> Path:
        return self.root / self.rows[split][place]["image"]

    def check(self, *arguments: str) -> tuple[int, Row]:
        for split, rows in self.rows.items():
            lines = (json.dumps(row) + "\n" for row in rows)
            (self.root / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        files = {split: f"{split}.jsonl" for split in self.rows}
        source = json.dumps({"class_path": "JsonLines", "init_args": {"files": files}})
        return checked(self.root, "--data.source", source, *arguments)


def checked(root: Path, *arguments: str, config: str = TINY) -> tuple[int, Row]:
    file = root / "reports" / "report.json"
    code = main(["check", "--config", config, "--data.root", str(root), "--json", str(file), *arguments])
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["exit_code"] == code
    return code, report


def found(report: Row) -> Found:
    return {
        (of["kind"], of["split"], of["other"]): (of["severity"], of["count"], of["total"]) for of in report["findings"]
    }


def examples(report: Row, kind: str) -> list[str]:
    return [example for of in report["findings"] if of["kind"] == kind for example in of["examples"]]


def texture(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Smooth coloured shapes of every size, as photos have."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)) for n in (3, 6, 12, 24)]
    arrays = [np.asarray(layer.resize(size, Image.Resampling.BICUBIC), np.float32) for layer in layers]
    return Image.fromarray(np.average(arrays, axis=0, weights=[8, 4, 2, 1]).astype(np.uint8))


def write_table(folder: Path, lengths: list[int]) -> FeatureTable:
    """Extracted features of so many tokens a row, of which rows 2 and 3 are not finite and row 5 is row 0 again."""
    tokens = torch.arange(2.0 * len(lengths) * max(lengths)).reshape(len(lengths), max(lengths), 2)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    pooled = torch.arange(3.0 * len(lengths)).reshape(len(lengths), 3)
    pooled[2, 1] = torch.nan
    tokens[3, 0, 0] = torch.inf
    pooled[5], tokens[5] = pooled[0], tokens[0]
    Manifest("tower", "items", len(lengths)).write(folder)
    write_shard(folder, 0, [Features(pooled, tokens, mask)], "float16")
    return FeatureTable(folder)
