"""Shards: folders of memory-mapped arrays that hold the embeddings and local tokens of some items."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ascl_lightning.data.arrays import damaged_arrays, load_array
from ascl_lightning.data.feature_shards import FeatureShard, as_bits, shard_arrays
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.database import REBUILD
from ascl_lightning.search.encoded import Encoded, Kind

_EMBEDS = "embeds"
_TOO_LARGE = "stores keep numbers up to 65504"
_NORM_TOLERANCE = 0.01


@dataclass(frozen=True)
class Encoding:
    """What all items of a store have in common.

    Args:
        kind: Whether they are images or texts.
        model: Fingerprint of the model that encoded them.
        width: Dimension D of the embeddings.
        shares_vectors: Whether the fused score uses the embeddings as pooled vectors, so that they are stored once.
    """

    kind: Kind
    model: str
    width: int
    shares_vectors: bool

    @classmethod
    def of(cls, items: Encoded) -> "Encoding":
        """The encoding of some items."""
        return cls(items.kind, items.model, items.shape[1], items.shares_vectors)


@dataclass(frozen=True)
class Shard:
    """Memory-mapped items."""

    encoding: Encoding
    features: FeatureShard
    embeds: Float[Tensor, "n D"]
    """Embeddings as they are stored, in float16."""

    def __len__(self) -> int:
        return len(self.embeds)

    @classmethod
    def open(cls, folder: Path, num_rows: int, encoding: Encoding) -> "Shard":
        """Maps a folder written by `save_arrays` with the arrays of `item_arrays` or `joined_arrays`.

        Raises:
            UserError: If it is missing or damaged.
        """
        features = FeatureShard.open(folder, num_rows, REBUILD)
        name = "pooled" if encoding.shares_vectors else _EMBEDS
        damaged = damaged_arrays(folder, ("lengths", name))
        if damaged:
            raise UserError(f"{damaged[0]}: is not what was written, as its checksum says; {REBUILD}")
        bits = load_array(folder / f"{name}.npy", REBUILD, mode="c")
        if bits.shape != (num_rows, encoding.width):
            raise UserError(f"{folder}: the arrays of this shard do not fit together; {REBUILD}")
        return cls(encoding, features, torch.from_numpy(bits).view(torch.float16))


def item_arrays(items: Encoded) -> dict[str, np.ndarray]:
    """The arrays of a shard that holds some items.

    Raises:
        ValueError: If the embeddings are not L2-normalised.
        UserError: If numbers are too large for float16.
    """
    if not bool(((items.embeds.norm(dim=1) - 1).abs() <= _NORM_TOLERANCE).all()):
        raise ValueError("embeddings of a store must be L2-normalised")
    arrays = shard_arrays([items.features], "float16", remedy=_TOO_LARGE)
    if not items.shares_vectors:
        arrays[_EMBEDS] = as_bits(items.embeds, "float16", _TOO_LARGE)
    return arrays


def joined_arrays(shards: Sequence[Shard], rows: Sequence[Bool[np.ndarray, " _"]]) -> dict[str, np.ndarray]:
    """The arrays of a shard that holds some rows of other shards.

    Args:
        shards: At least one.
        rows: The rows of each shard to take.
    """
    parts = []
    for shard, selected in zip(shards, rows, strict=True):
        arrays = shard.features.selected(selected)
        if not shard.encoding.shares_vectors:
            arrays[_EMBEDS] = shard.embeds.view(torch.int16).numpy()[selected]
        parts.append(arrays)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
