"""Outputs of a frozen tower, kept on disk and read by row: encoded once a training, not once an epoch."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ascl_lightning.data.batch import Features

_MANIFEST = "manifest.json"


@dataclass
class FeatureTable:
    """Rows of unprojected `Features`, memory-mapped, in float16.

    Tokens lie one after another without padding; row i owns `tokens[offsets[i]:offsets[i + 1]]`.

    Args:
        pooled: (N, P).
        tokens: (sum of lengths, T).
        offsets: (N + 1,).
    """

    pooled: np.ndarray
    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.pooled)

    def gather(self, rows: Int[Tensor, " B"]) -> Features:
        """The features of some rows, padded on the right to the longest of them."""
        starts, ends = self.offsets[rows.numpy()], self.offsets[rows.numpy() + 1]
        lengths = ends - starts
        tokens = np.zeros((len(rows), int(lengths.max(initial=1)), self.tokens.shape[1]), np.float16)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            tokens[i, : end - start] = self.tokens[start:end]
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        return Features(
            torch.from_numpy(self.pooled[rows.numpy()]).float(),
            torch.from_numpy(tokens).float(),
            torch.from_numpy(mask),
        )

    @classmethod
    def open(cls, folder: Path, fingerprint: str) -> "FeatureTable | None":
        """The table in `folder`, or None where there is none, or one that other weights or items made."""
        manifest = folder / _MANIFEST
        if not manifest.is_file() or json.loads(manifest.read_text())["fingerprint"] != fingerprint:
            return None
        pooled, offsets = np.load(folder / "pooled.npy", mmap_mode="r"), np.load(folder / "offsets.npy")
        width = json.loads(manifest.read_text())["token_dim"]
        tokens = np.memmap(folder / "tokens.f16", np.float16, mode="r").reshape(-1, width)
        return cls(pooled, tokens, offsets)


class FeatureWriter:
    """Writes a `FeatureTable` batch by batch; the manifest comes last, so a half-written table is never opened."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MANIFEST).unlink(missing_ok=True)
        self._folder = folder
        self._tokens = (folder / "tokens.f16").open("wb")
        self._pooled: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._token_dim = 0

    def append(self, features: Features) -> None:
        """Adds rows (B, P), (B, K, T); padding is left out."""
        self._tokens.write(_half(features.tokens[features.mask]).tobytes())
        self._pooled.append(_half(features.pooled))
        self._lengths.append(features.mask.sum(dim=1).cpu().numpy())
        self._token_dim = features.tokens.shape[2]

    def close(self, fingerprint: str) -> None:
        """Makes the table valid for whoever asks with the same fingerprint."""
        self._tokens.close()
        np.save(self._folder / "pooled.npy", np.concatenate(self._pooled))
        np.save(self._folder / "offsets.npy", np.concatenate(self._lengths).cumsum())
        manifest = {"fingerprint": fingerprint, "token_dim": self._token_dim}
        (self._folder / _MANIFEST).write_text(json.dumps(manifest))


def _half(values: Tensor) -> np.ndarray:
    half: np.ndarray = values.detach().to(torch.float16).cpu().numpy()
    return half
