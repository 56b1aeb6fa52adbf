"""Encoded images or texts: embeddings, and the features for the fused score."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.models.similarity.fused import Comparable, FusedSimilarity
from ascl_lightning.models.similarity.tiles import half_of_free_memory
from ascl_lightning.runtime.files import write_file

Kind = Literal["images", "texts"]
_FORMAT = "ascl_lightning.Encoded 1"
_BLOCK = 4096  # items per block of `comparable`
_SIZE_OF_COMPARABLE = 3  # memory of a `Comparable` as a multiple of its tokens


@dataclass(frozen=True, eq=False)
class Encoded:
    """N images or texts encoded by a `Retriever`. Supports `len`, indexing, iteration and NumPy functions.

    Args:
        kind: Whether the items are images or texts.
        embeds: Independent, L2-normalised embeddings, (N, D).
        features: Input of the fused score, from `FusedSimilarity.prepare_images` or `prepare_texts`.
        model: Fingerprint of the model. Items of different models cannot be compared.

    Example:
        >>> none = torch.zeros(3, 0, 2), torch.zeros(3, 0, dtype=torch.bool)
        >>> encoded = Encoded("texts", torch.eye(3), Features(torch.eye(3), *none), model="of an example")
        >>> len(encoded), len(encoded[1:]), encoded[[2, 0]].numpy().argmax(1).tolist()
        (3, 2, [2, 0])
        >>> len(Encoded.join([encoded, encoded[:1]]))
        4
    """

    kind: Kind
    embeds: Float[Tensor, "N D"]
    features: Features = field(repr=False)
    model: str = field(repr=False)
    _kept: list[Comparable] = field(default_factory=list, init=False, repr=False)

    @property
    def tokens(self) -> Float[Tensor, "N K D"] | None:
        """Padded local tokens, (N, K, D). None if the model has no local score."""
        return self.features.tokens if self.features.tokens.shape[1] else None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the embeddings, (N, D)."""
        return self.embeds.shape[0], self.embeds.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.embeds.device

    @property
    def shares_vectors(self) -> bool:
        """Whether the fused score uses the embeddings, so that they are not stored twice."""
        return self.features.pooled is self.embeds

    def __len__(self) -> int:
        return len(self.embeds)

    def __repr__(self) -> str:
        tokens = "no tokens" if self.tokens is None else f"up to {self.tokens.shape[1]} tokens each"
        return f"Encoded({len(self)} {self.kind}, {self.shape[1]} dimensions, {tokens})"

    def __getitem__(self, rows: int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor) -> "Encoded":
        """Selects items; a single index returns an `Encoded` of length 1."""
        if isinstance(rows, int | np.integer):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"index {rows} is out of range for {len(self)} {self.kind}")
            chosen: Any = [int(rows)]
        elif isinstance(rows, slice):
            chosen = range(len(self))[rows]
            # torch does not support negative steps
            rows = list(chosen) if chosen.step < 0 else rows
            chosen = rows
        else:
            chosen = torch.as_tensor(rows, device=self.device)
        return self._changed(lambda tensor: tensor[chosen])

    def __iter__(self) -> Iterator["Encoded"]:
        return (self[number] for number in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The embeddings, for NumPy functions."""
        return np.asarray(self.numpy(), dtype=dtype)

    def numpy(self) -> Float[np.ndarray, "N D"]:
        """The embeddings as an array, (N, D)."""
        array: np.ndarray = self.embeds.cpu().numpy()
        return array

    def to(self, device: torch.device | str) -> "Encoded":
        """Copies the items to a device. A gallery on the model's device is not copied again for each query."""
        return self._changed(lambda tensor: tensor.to(device))

    @classmethod
    def join(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """Concatenates parts.

        Raises:
            UserError: If there are no parts, or they are of different kinds or models.
        """
        if not parts:
            raise UserError("no parts to join: give at least one Encoded")
        if len({(part.kind, part.model, part.shape[1]) for part in parts}) > 1:
            raise UserError("parts of different kinds or models cannot be joined")
        embeds = torch.cat([part.embeds for part in parts])
        features = Features.join([part.features for part in parts])
        shared = all(part.shares_vectors for part in parts)
        return cls(parts[0].kind, embeds, _with_pooled(features, embeds) if shared else features, parts[0].model)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file that `load` reads.

        Raises:
            UnwritableError: If the file cannot be written.
        """
        named = {"embeds": self.embeds, "tokens": self.features.tokens, "mask": self.features.mask}
        if not self.shares_vectors:
            named["pooled"] = self.features.pooled
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
        write_file(Path(path), save(tensors, {"format": _FORMAT, "kind": self.kind, "model": self.model}))

    @classmethod
    def load(cls, path: str | Path) -> "Encoded":
        """Reads a file written by `save`.

        Raises:
            UserError: If the file is missing, or was not written by `save`.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"cannot read '{path}': {error}") from error
        kind = about.get("kind")
        if about.get("format") != _FORMAT or kind not in ("images", "texts"):
            raise UserError(f"'{path}' was not written by `Encoded.save`: give a file that it wrote")
        embeds = tensors["embeds"]
        features = Features(tensors.get("pooled", embeds), tensors["tokens"], tensors["mask"])
        return cls(kind, embeds, features, about["model"])

    def comparable(self, similarity: FusedSimilarity, device: torch.device) -> Iterator[Comparable]:
        """Yields the input of the fused score in blocks, and caches it if there is enough memory.

        Args:
            similarity: Similarity of the model that encoded the items.
            device: Device of the score.
        """
        if self._kept and self._kept[0].features.pooled.device == device:
            yield from self._kept
            return
        ready = similarity.ready_images if self.kind == "images" else similarity.ready_texts
        tokens = self.features.tokens
        keeps = _SIZE_OF_COMPARABLE * tokens.numel() * tokens.element_size() < half_of_free_memory(device)
        self._kept.clear()
        blocks = []
        for start in range(0, len(self), _BLOCK):
            block = ready(self[start : start + _BLOCK].to(device).features)
            if keeps:
                blocks.append(block)
            yield block
        self._kept.extend(blocks)

    def _changed(self, change: Callable[[Tensor], Shaped[Tensor, "..."]]) -> "Encoded":
        embeds = change(self.embeds)
        pooled = embeds if self.shares_vectors else change(self.features.pooled)
        features = Features(pooled, change(self.features.tokens), change(self.features.mask))
        return Encoded(self.kind, embeds, features, self.model)


def _with_pooled(features: Features, pooled: Tensor) -> Features:
    return Features(pooled, features.tokens, features.mask)
