"""Encoded images or texts: their embeddings, and what the fused score reads of them."""

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
_BLOCK = 4096  # items that are made comparable at a time
_SIZE_OF_COMPARABLE = 3  # in sizes of the tokens, these included


@dataclass(frozen=True, eq=False)
class Encoded:
    """N images or texts as a `Retriever` encodes them. Behaves as a sequence, and as the array of its embeddings.

    Args:
        kind: Whether they are images or texts.
        embeds: L2-normalised embeddings that depend on nothing but their item, (N, D).
        features: What the fused score reads: `FusedSimilarity.prepare_images` or `prepare_texts` gives it.
        model: Fingerprint of the model: encoded items of different models are never compared.

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
        """Local tokens, padded; None where no score of the model reads them."""
        return self.features.tokens if self.features.tokens.shape[1] else None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the embeddings, (N, D)."""
        return self.embeds.shape[0], self.embeds.shape[1]

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.embeds.device

    def __len__(self) -> int:
        return len(self.embeds)

    def __repr__(self) -> str:
        tokens = "no tokens" if self.tokens is None else f"up to {self.tokens.shape[1]} tokens each"
        return f"Encoded({len(self)} {self.kind}, {self.shape[1]} dimensions, {tokens})"

    def __getitem__(self, rows: int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor) -> "Encoded":
        """Some of the items, in the order of `rows`; one item is still an `Encoded`, of length 1."""
        if isinstance(rows, int | np.integer):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"there are {len(self)} {self.kind}, and none of number {rows}")
            chosen: Any = [int(rows)]
        elif isinstance(rows, slice):
            chosen = range(len(self))[rows]
            # negative steps are not torch's
            rows = list(chosen) if chosen.step < 0 else rows
            chosen = rows
        else:
            chosen = torch.as_tensor(rows, device=self.device)
        return self._changed(lambda tensor: tensor[chosen])

    def __iter__(self) -> Iterator["Encoded"]:
        return (self[number] for number in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The embeddings, for NumPy's functions."""
        return np.asarray(self.numpy(), dtype=dtype)

    def numpy(self) -> Float[np.ndarray, "N D"]:
        """The embeddings as an array, (N, D)."""
        array: np.ndarray = self.embeds.cpu().numpy()
        return array

    def to(self, device: torch.device | str) -> "Encoded":
        """The same on another device; a gallery on the model's own device is not copied there for each query."""
        return self._changed(lambda tensor: tensor.to(device))

    @classmethod
    def join(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """All items of the parts, in their order.

        Raises:
            UserError: If there is no part, or they are of different kinds or models.
        """
        if not parts:
            raise UserError("there is nothing to join")
        if len({(part.kind, part.model, part.shape[1]) for part in parts}) > 1:
            raise UserError("only images, or only texts, that one model encoded can be joined")
        embeds = torch.cat([part.embeds for part in parts])
        features = Features.join([part.features for part in parts])
        shared = all(part._shares_vectors for part in parts)
        return cls(parts[0].kind, embeds, _with_pooled(features, embeds) if shared else features, parts[0].model)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, which `load` reads.

        Raises:
            UnwritableError: If it cannot be written.
        """
        named = {"embeds": self.embeds, "tokens": self.features.tokens, "mask": self.features.mask}
        if not self._shares_vectors:
            named["pooled"] = self.features.pooled
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
        write_file(Path(path), save(tensors, {"format": _FORMAT, "kind": self.kind, "model": self.model}))

    @classmethod
    def load(cls, path: str | Path) -> "Encoded":
        """Read what `save` wrote.

        Raises:
            UserError: If it is no such file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"cannot read '{path}': {error}") from error
        kind = about.get("kind")
        if about.get("format") != _FORMAT or kind not in ("images", "texts"):
            raise UserError(f"'{path}' does not hold images or texts that `Encoded.save` wrote")
        embeds = tensors["embeds"]
        features = Features(tensors.get("pooled", embeds), tensors["tokens"], tensors["mask"])
        return cls(kind, embeds, features, about["model"])

    def comparable(self, similarity: FusedSimilarity, device: torch.device) -> Iterator[Comparable]:
        """What the fused score needs, block by block; kept for the next call while memory is not short.

        Args:
            similarity: That of the model that encoded them.
            device: Where scores are computed.
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

    @property
    def _shares_vectors(self) -> bool:
        """Whether the fused score reads the embeddings themselves, so that they need not be kept twice."""
        return self.features.pooled is self.embeds

    def _changed(self, change: Callable[[Tensor], Shaped[Tensor, "..."]]) -> "Encoded":
        embeds = change(self.embeds)
        pooled = embeds if self._shares_vectors else change(self.features.pooled)
        features = Features(pooled, change(self.features.tokens), change(self.features.mask))
        return Encoded(self.kind, embeds, features, self.model)


def _with_pooled(features: Features, pooled: Tensor) -> Features:
    return Features(pooled, features.tokens, features.mask)
