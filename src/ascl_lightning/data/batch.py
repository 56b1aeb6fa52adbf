"""Types shared by data and models: input specifications of encoders, batches, and outputs of encoders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PixelSpec:
    """Input of an image encoder: square uint8 RGB pictures.

    Args:
        size: Height and width in pixels.
        mean: Per-channel mean of the encoder's training pictures, in [0, 1]; the encoder normalises by it.
        std: Per-channel standard deviation, likewise.
        interpolation: Resampling filter.
        crop: How a picture becomes square: by a center crop or by squashing.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop: Literal["center", "squash"] = "center"


@dataclass(frozen=True)
class RegionSpec:
    """Input of an encoder of pre-extracted region features: up to `num_regions` vectors of width `dim`."""

    num_regions: int
    dim: int


ImageSpec = PixelSpec | RegionSpec


@dataclass(frozen=True)
class TextSpec:
    """Input of a text encoder.

    Args:
        max_length: Maximum length in tokens, special tokens included; longer texts are truncated and counted.
        tokenizer: Local folder or hub id of a `transformers` tokenizer; None uses the vocabulary that the data module
            mines from the training captions.
        vocab_size: Maximum size of that vocabulary, special tokens included; None with a `tokenizer`.
    """

    max_length: int
    tokenizer: str | None = None
    vocab_size: int | None = None


@dataclass
class TokenizedTexts:
    """Token ids of texts, padded on the right."""

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
        """An empty batch of texts."""
        empty = torch.zeros(0, 1, dtype=torch.bool)
        return cls(empty.long(), empty, ~empty)


@dataclass
class Features:
    """A global vector and local tokens for each item.

    Towers return them unprojected, in their own widths; the model's projections map both to the width D.
    """

    pooled: Float[Tensor, "B P"]
    tokens: Float[Tensor, "B K T"]
    mask: Bool[Tensor, "B K"]
    """True for real tokens."""

    def __len__(self) -> int:
        return len(self.pooled)

    def differ(self, other: "Features") -> Bool[Tensor, " B"]:
        """Which rows differ from those of `other` (with the same mask) in values that scores read."""
        tokens = (self.tokens != other.tokens) & self.mask[..., None]
        return (self.pooled != other.pooled).any(dim=1) | tokens.flatten(1).any(dim=1)

    @classmethod
    def join(cls, parts: Sequence["Features"]) -> "Features":
        """Concatenates parts, padded to the largest number of tokens."""
        longest = max(part.mask.shape[1] for part in parts)
        missing = [longest - part.mask.shape[1] for part in parts]
        return cls(
            torch.cat([part.pooled for part in parts]),
            torch.cat([F.pad(part.tokens, (0, 0, 0, pad)) for part, pad in zip(parts, missing, strict=True)]),
            torch.cat([F.pad(part.mask, (0, pad)) for part, pad in zip(parts, missing, strict=True)]),
        )


@dataclass
class WithCrops(Features):
    """Stored features of images, with those of crops of each image, whose global vectors are to be tokens as well."""

    crops: tuple[Features, ...]


@dataclass
class ImageViews:
    """Stored features of N images in several views, of which the first is the plain one; in evaluation only."""

    views: tuple[Features, ...]

    def __len__(self) -> int:
        return len(self.views[0])


@dataclass
class MadeTexts:
    """T+, T- or (T+)-: texts made from the texts in the same rows."""

    texts: TokenizedTexts | Features
    valid: Bool[Tensor, " M"]
    """False if the text, or its tokens, equal the original's; the loss ignores such rows."""


@dataclass
class ImageTextBatch:
    """N images and M texts. In training row i of both is a pair (N = M); in evaluation each image has all its texts.

    `image_ids` and `text_ids` are row numbers in the split; `text_image_ids` is the row number of each text's image.
    The made texts exist in training only, row by row with `texts`. In training, `images` may hold an image that stands
    in several pairs once (P < N); `image_places` is then the row of `images` of each pair.
    """

    images: UInt8[Tensor, "P 3 S S"] | Features | ImageViews
    image_ids: Int[Tensor, " N"]
    texts: TokenizedTexts | Features
    text_ids: Int[Tensor, " M"]
    text_image_ids: Int[Tensor, " M"]
    image_places: Int[Tensor, " M"] | None = None
    sampling_keys: Int[Tensor, " M"] | None = None
    """A hash of (seed, epoch, index) for each row, which seeds all random draws on features."""
    negatives: MadeTexts | None = None
    """T-: T with a wrong detail (type I), made at word level."""
    positives: MadeTexts | None = None
    """T+: the text says more (type II) or less (type III)."""
    positive_negatives: MadeTexts | None = None
    """(T+)-: T+ with a wrong detail, made at word level."""
    num_truncated: int = 0
    """Number of texts that the tokenizer truncated."""
    faults: tuple[str, ...] = ()
    """Errors of unreadable pictures, which are replaced by others in training and black in evaluation."""

    def pin_memory(self) -> "ImageTextBatch":
        """Copies the batch to page-locked memory for asynchronous transfer; called by the loader."""
        return map_tensors(self, Tensor.pin_memory)


@dataclass(frozen=True)
class EncodedBatch:
    """Projected images and texts, and the independent embeddings of both."""

    images: Features
    texts: Features
    image_embeds: Float[Tensor, "N D"]
    text_embeds: Float[Tensor, "M D"]


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Applies a function to every tensor of a value of any type of this module."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: map_tensors(getattr(value, field.name), change) for field in fields(value)}
        )
    return value
