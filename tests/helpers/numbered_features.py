"""Stored features that show their row."""

from pathlib import Path

import torch

from ascl_lightning.data.batch import Features
from ascl_lightning.data.stored_features import FeatureTable, Manifest, write_shard


def numbered_table(folder: Path, rows: int) -> FeatureTable:
    """A table whose pooled vector is the row's number."""
    Manifest("tower", "items", rows).write(folder)
    features = Features(torch.arange(float(rows))[:, None], torch.ones(rows, 1, 2), torch.ones(rows, 1).bool())
    write_shard(folder, 0, [features], "float16")
    return FeatureTable(folder)
