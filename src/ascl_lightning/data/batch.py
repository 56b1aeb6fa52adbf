"""The types that data and models share: what an encoder needs, what a batch holds, what an encoder gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PixelSpec:
    """What an image encoder wants to be fed: square uint8 RGB pictures.

    Args:
        size: Height and width in pixels.
        mean: Per-channel mean of the encoder's training pictures, in [0, 1]; the encoder itself normalises.
        std: Per-channel standard deviation, likewise.
        interpolation: Resampling filter.
        crop: How a picture that is not square becomes square: cut to its centre, or squashed.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop: Literal["center", "squash"] = "center"


@dataclass(frozen=True)
class RegionSpec:
    """What an encoder of pre-extracted region features wants to be fed: up to `num_regions` vectors of `dim`."""

    num_regions: int
    dim: int


ImageSpec = PixelSpec | RegionSpec


@dataclass(frozen=True)
class TextSpec:
    """What a text encoder wants to be fed.

    Args:
        max_length: Longest sequence in tokens, special tokens included; longer texts are cut and counted.
        tokenizer: Local folder or hub id of a `transformers` tokenizer. None: the words of the vocabulary that the
            data module mines from the training captions.
        vocab_size: Capacity of that mined vocabulary, special tokens included; None with a `tokenizer`.
    """

    max_length: int
    tokenizer: str | None = None
    vocab_size: int | None = None


@dataclass
class TokenizedTexts:
    """Texts as token ids, padded on the right."""

    input_ids: Int[Tensor, "M L"]
    attention_mask: Bool[Tensor, "M L"]
    """True for real tokens, special ones included."""
    special_mask: Bool[Tensor, "M L"]
    """True for tokens that the tokenizer added ([CLS], [SEP], end of text) and for padding."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def keys(self) -> list[bytes]:
        """The tokens of each text without padding; two texts are the same to an encoder if their keys are equal."""
        lengths = self.attention_mask.sum(dim=1).tolist()
        return [ids[:length].tobytes() for ids, length in zip(self.input_ids.numpy(), lengths, strict=True)]

    @classmethod
    def none(cls) -> "TokenizedTexts":
        """No texts at all."""
        empty = torch.zeros(0, 1, dtype=torch.bool)
        return cls(empty.long(), empty, ~empty)


@dataclass
class Features:
    """One global vector and local tokens for each item, before or after projection.

    A tower gives them unprojected, with widths of its own; the model's projections give them with one width D.
    """

    pooled: Float[Tensor, "B P"]
    tokens: Float[Tensor, "B K T"]
    mask: Bool[Tensor, "B K"]
    """True for real tokens."""

    def __len__(self) -> int:
        return len(self.pooled)

    def differ(self, other: "Features") -> Bool[Tensor, " B"]:
        """Which items differ from those of the same rows, in what scores read; `other` has the same mask."""
        tokens = (self.tokens != other.tokens) & self.mask[..., None]
        return (self.pooled != other.pooled).any(dim=1) | tokens.flatten(1).any(dim=1)

    @classmethod
    def join(cls, parts: Sequence["Features"]) -> "Features":
        """All items of the parts in their order, padded to the most tokens of any part."""
        longest = max(part.mask.shape[1] for part in parts)
        missing = [longest - part.mask.shape[1] for part in parts]
        return cls(
            torch.cat([part.pooled for part in parts]),
            torch.cat([F.pad(part.tokens, (0, 0, 0, pad)) for part, pad in zip(parts, missing, strict=True)]),
            torch.cat([F.pad(part.mask, (0, pad)) for part, pad in zip(parts, missing, strict=True)]),
        )


@dataclass
class MadeTexts:
    """T+, T- or (T+)-: texts made from the texts of the same rows."""

    texts: TokenizedTexts | Features
    valid: Bool[Tensor, " M"]
    """False if no operation could make the text differ from its original; such a row counts for nothing."""


@dataclass
class ImageTextBatch:
    """N images and M texts. In training row i of both is a pair (N = M); in evaluation an image brings all its texts.

    `image_ids` and `text_ids` are row numbers in the split; `text_image_ids` is the row number of each text's image.
    The samples of the three asymmetry types exist in training only, row by row with `texts`.
    """

    images: UInt8[Tensor, "N 3 S S"] | Features
    image_ids: Int[Tensor, " N"]
    texts: TokenizedTexts | Features
    text_ids: Int[Tensor, " M"]
    text_image_ids: Int[Tensor, " M"]
    sampling_keys: Int[Tensor, " M"] | None = None
    """A hash of (seed, epoch, index) for each row, from which every random draw on features derives."""
    negatives: MadeTexts | None = None
    """T-: T with a wrong detail (type I), made at word level."""
    positives: MadeTexts | None = None
    """T+: the text says more (type II) or less (type III)."""
    positive_negatives: MadeTexts | None = None
    """(T+)-: T+ with a wrong detail, made at word level."""
    num_truncated: int = 0
    """Texts of this batch that the tokenizer's limit cut."""
    faults: tuple[str, ...] = ()
    """What is wrong with pictures that could not be read: replaced by others in training, black in evaluation."""

    def pin_memory(self) -> "ImageTextBatch":
        """The batch in page-locked memory, from which a device copies while it computes; the loader calls it."""
        return map_tensors(self, Tensor.pin_memory)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or any type of this module, with every tensor in it changed alike."""
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: map_tensors(getattr(value, field.name), change) for field in fields(value)}
        )
    return value
