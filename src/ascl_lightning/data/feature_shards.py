"""Features of some items in memory-mapped arrays: the shards of feature tables and of galleries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ascl_lightning.data.arrays import load_array
from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError

Precision = Literal["float16", "bfloat16", "float32"]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""The type of stored numbers, which are kept as integers of the same width, as NumPy has no bfloat16."""
FIELDS = ("pooled", "tokens", "lengths")
"""Names of the arrays of a shard."""


@dataclass(frozen=True)
class FeatureShard:
    """Memory-mapped rows; tokens are concatenated without padding."""

    pooled: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray

    @classmethod
    def open(cls, folder: Path, num_rows: int, remedy: str = "extract again") -> "FeatureShard":
        """Maps the arrays of a folder.

        Args:
            folder: Folder written by `save_arrays`.
            num_rows: Expected number of rows.
            remedy: What the user can do if they are damaged.

        Raises:
            UserError: If an array is missing or damaged, or they do not fit together.
        """
        shard = cls(*(load_array(folder / f"{name}.npy", remedy) for name in FIELDS))
        shapes = shard.pooled.shape[:-1], shard.lengths.shape, shard.tokens.shape[:-1]
        if shapes != ((num_rows,), (num_rows,), (int(shard.lengths.sum()),)):
            raise UserError(f"{folder}: the arrays of this shard do not fit together; remove it and {remedy}")
        return shard

    @cached_property
    def starts(self) -> np.ndarray:
        """Place of the first token of each row."""
        return np.cumsum(self.lengths) - self.lengths

    def selected(self, rows: Bool[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """Copies of the arrays with some of the rows."""
        tokens = self.tokens[np.repeat(rows, self.lengths)]
        return dict(zip(FIELDS, (self.pooled[rows], tokens, self.lengths[rows]), strict=True))

    def copy_tokens(self, rows: np.ndarray, into: np.ndarray, places: np.ndarray) -> None:
        """Copies the tokens of some rows to positions of a padded array (B, K, T)."""
        lengths, starts = self.lengths[rows], self.starts[rows]
        if len(rows) and (lengths == into.shape[1]).all():
            into[places] = self.tokens[starts[:, None] + np.arange(into.shape[1])]
            return
        for place, start, length in zip(places, starts, lengths, strict=True):
            into[place, :length] = self.tokens[start : start + length]


def gather_rows(
    shards: Sequence[FeatureShard],
    numbers: Int[np.ndarray, " B"],
    places: Int[np.ndarray, " B"],
    dtype: Precision,
    *,
    with_tokens: bool = True,
) -> Features:
    """Features of some rows of several shards, padded on the right, as float32.

    Args:
        shards: At least one.
        numbers: Number of the shard that holds each row.
        places: Place of each row in its shard.
        dtype: Type of the stored numbers.
        with_tokens: Whether to read tokens; otherwise K is 0.
    """
    groups = [(shards[n], np.flatnonzero(numbers == n)) for n in np.unique(numbers)]
    bit_type = shards[0].pooled.dtype
    pooled = np.empty((len(numbers), shards[0].pooled.shape[1]), bit_type)
    for shard, group in groups:
        pooled[group] = shard.pooled[places[group]]
    token_groups = groups if with_tokens else []
    lengths = np.zeros(len(numbers), np.int64)
    for shard, group in token_groups:
        lengths[group] = shard.lengths[places[group]]
    longest = int(lengths.max(initial=1)) if with_tokens else 0
    tokens = np.zeros((len(numbers), longest, shards[0].tokens.shape[1]), bit_type)
    for shard, group in token_groups:
        shard.copy_tokens(places[group], tokens, group)
    mask = np.arange(tokens.shape[1]) < lengths[:, None]
    return Features(as_numbers(pooled, dtype), as_numbers(tokens, dtype), torch.from_numpy(mask))


def shard_arrays(parts: Sequence[Features], dtype: Precision, *, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of a shard that holds some features.

    Args:
        parts: The features, in the order of rows.
        dtype: Type of the stored numbers.
        remedy: What to do about numbers that are too large for it, as activations inside a tower can be for float16.

    Raises:
        UserError: If there are such numbers.
    """
    arrays = (
        np.concatenate([as_bits(part.pooled, dtype, remedy) for part in parts]),
        np.concatenate([as_bits(part.tokens[part.mask], dtype, remedy) for part in parts]),
        np.concatenate([part.mask.sum(dim=1).cpu().numpy().astype(np.int32) for part in parts]),
    )
    return dict(zip(FIELDS, arrays, strict=True))


def as_bits(values: Tensor, dtype: Precision, remedy: str) -> np.ndarray:
    """Numbers as integers of the same width as the type they are stored in; see `shard_arrays`."""
    width = torch.int32 if dtype == "float32" else torch.int16
    stored = values.detach().to(DTYPES[dtype]).cpu()
    if bool(stored.isinf().any()) and not bool(values.isinf().any()):
        raise UserError(f"features are too large for {dtype}: {remedy}")
    bits: np.ndarray = stored.view(width).numpy()
    return bits


def as_numbers(bits: np.ndarray, dtype: Precision) -> Tensor:
    """The float32 numbers that `as_bits` has stored."""
    return torch.from_numpy(bits).view(DTYPES[dtype]).float()
