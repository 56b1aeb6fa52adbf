"""Similarity of every image with every text from cross-attention between their local tokens.

Source: AsCL (arXiv 2405.10029), section III-C, local level. Multi-head attention without projections: heads split the
feature dimension, values are keys, logits are dot products times a fixed scale.

The cosine of a query q with its attended context q' needs no q': with attention weights a_h over the context vectors
of head h and the dot products s_h, `q . q' = sum_h a_h . s_h` and `|q'|^2 = sum_h a_h' G_h a_h`, G_h the Gram matrix
of the context. One product of all regions with all words serves both directions. Scores are made in tiles of a
bounded size, so no tensor grows with N * M but the result (and, with gradients, what autograd keeps of each tile).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

Direction = Literal["both", "image_to_text", "text_to_image"]
DIRECTIONS = ("both", "image_to_text", "text_to_image")

TILE_ELEMENTS = 2**22
"""Attention weights (pairs x heads x regions x words) in one tile: 16 MiB in float32, of which a few are alive."""

SMALLEST_SQUARED_NORM = 1e-12
"""A vector shorter than 1e-6 counts as zero: it has no direction, hence cosine 0 and no gradient."""


@dataclass(frozen=True)
class CrossAttention:
    """How regions and words attend over each other.

    Args:
        num_heads: Equal slices of the feature dimension that attend on their own.
        image_to_text_scale: Factor of the logits where regions attend over words.
        text_to_image_scale: Factor of the logits where words attend over regions.
    """

    num_heads: int
    image_to_text_scale: float
    text_to_image_scale: float


@dataclass(frozen=True)
class TokenSet:
    """Local tokens of B items, ready to attend and to be attended over."""

    heads: tuple[Tensor, ...]
    """One slice of the tokens for each head, (B, T, D / H), zero at padding."""
    bias: Tensor
    """Added to the logits over these tokens, (B, T): 0, or -inf at padding."""
    share: Tensor
    """Weight of each token in the mean over its item, (B, T): 1 / number of real tokens, or 0 at padding."""
    inverse_norm: Tensor
    """1 / length of each token over all heads, (B, T); 0 for a zero vector."""


@dataclass(frozen=True)
class DirectedAttention:
    """The Q = A * q queries of A items attending over the T tokens of each of B items.

    Queries lie along the last axis, the longest: sums and softmax over a short last axis are several times slower.
    """

    queries: TokenSet
    context: TokenSet
    scores: tuple[Tensor, ...]
    """Dot products of context and queries in each head, (B, T, Q)."""
    weights: tuple[Tensor, ...]
    """Attention in each head, (B, T, Q)."""

    def similarity(self) -> Float[Tensor, "B A"]:
        """Mean over an item's queries of the cosine with their attended vectors."""
        heads = list(zip(self.scores, self.weights, self.context.heads, strict=True))
        dot = torch.stack([(weights * scores).sum(1) for scores, weights, _ in heads]).sum(0)
        squared_norm = torch.stack([_squared_norm(weights, tokens) for _, weights, tokens in heads]).sum(0)
        cosine = (dot * inverse_norm(squared_norm)).unflatten(1, self.queries.share.shape)
        return (cosine * (self.queries.inverse_norm * self.queries.share)).sum(-1)

    def mean(self) -> Float[Tensor, "B A HT"]:
        """Attention averaged over an item's queries, heads side by side: the mean attended vector follows from it."""
        share = self.queries.share
        heads = [(weights.unflatten(2, share.shape) * share).sum(3) for weights in self.weights]
        return torch.cat(heads, 1).transpose(1, 2)


class PairAttention:
    """Attention between all regions of N images and all words of M texts, both ways.

    Args:
        images: Regions.
        texts: Words.
        attention: Heads and scales.
    """

    def __init__(self, images: TokenSet, texts: TokenSet, attention: CrossAttention) -> None:
        self.images, self.texts, self.attention = images, texts, attention
        pairs = zip(images.heads, texts.heads, strict=True)
        self.scores = [regions.flatten(0, 1) @ words.flatten(0, 1).T for regions, words in pairs]

    def over_words(self) -> DirectedAttention:
        """Regions attend over words: image-to-text."""
        scores = [head.T.contiguous() for head in self.scores]
        return _attend(self.images, self.texts, scores, self.attention.image_to_text_scale)

    def over_regions(self) -> DirectedAttention:
        """Words attend over regions: text-to-image."""
        return _attend(self.texts, self.images, self.scores, self.attention.text_to_image_scale)


def local_similarity(
    image_tokens: Float[Tensor, "N K D"],
    text_tokens: Float[Tensor, "M L D"],
    text_mask: Bool[Tensor, "M L"] | Integer[Tensor, "M L"],
    *,
    image_mask: Bool[Tensor, "N K"] | Integer[Tensor, "N K"] | None = None,
    num_heads: int = 8,
    image_to_text_scale: float = 4.0,
    text_to_image_scale: float = 9.0,
    direction: Direction = "both",
) -> Float[Tensor, "N M"]:
    """Local similarity of every image with every text (AsCL, section III-C; S_local).

    Nothing is normalised beforehand. Computed in float32, or float64 if a token tensor is, also under autocast. A zero
    vector has cosine 0; a text without words, or an image without regions, scores 0.

    Args:
        image_tokens: Region vectors, (N, K, D).
        text_tokens: Word vectors, (M, L, D).
        text_mask: True (or 1) for real words, (M, L); whatever stands at the others has no effect.
        image_mask: True (or 1) for real regions, (N, K); None if all are.
        num_heads: Attention heads, which split D.
        image_to_text_scale: Factor of the logits where regions attend over words.
        text_to_image_scale: Factor of the logits where words attend over regions.
        direction: `"image_to_text"`: mean over regions of the cosine with their attended words; `"text_to_image"`:
            mean over words of the cosine with their attended regions; `"both"`: the mean of the two.

    Returns:
        Similarities in [-1, 1], (N, M).

    Raises:
        ValueError: If D is not divisible by `num_heads`, or `direction` is unknown.

    Example:
        >>> regions = torch.eye(2)[:, None]  # two images of one region each
        >>> words = torch.tensor([[[3.0, 0.0], [9.0, 9.0]]])  # a text of one word and padding
        >>> local_similarity(regions, words, torch.tensor([[1, 0]]), num_heads=1).tolist()
        [[1.0], [0.0]]
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}, but must be one of {', '.join(DIRECTIONS)}")
    if num_heads < 1 or image_tokens.shape[-1] % num_heads:
        raise ValueError(f"{image_tokens.shape[-1]} dimensions do not split into {num_heads} heads of equal size")
    dtype = scoring_dtype(image_tokens, text_tokens)
    attention = CrossAttention(num_heads, image_to_text_scale, text_to_image_scale)

    def score_tile(rows: slice, columns: slice) -> Tensor:
        region_mask = None if image_mask is None else image_mask[rows]
        images = token_set(image_tokens[rows].to(dtype), region_mask, num_heads)
        texts = token_set(text_tokens[columns].to(dtype), text_mask[columns], num_heads)
        pairs = PairAttention(images, texts, attention)
        if direction == "image_to_text":
            return pairs.over_words().similarity().T
        if direction == "text_to_image":
            return pairs.over_regions().similarity()
        return mean_similarity(pairs.over_words(), pairs.over_regions())

    pair_elements = num_heads * image_tokens.shape[1] * text_tokens.shape[1]
    with torch.autocast(image_tokens.device.type, enabled=False):
        return score_in_tiles(image_tokens.shape[0], text_tokens.shape[0], pair_elements, score_tile)


def scoring_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype in which scores of these tensors are computed: the widest of theirs and float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def inverse_norm(squared_norm: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 / length from the squared length; 0, with gradient 0, for a zero vector.

    The clamp comes before the root and the guard after it: the plain form gives NaN at zero, and a clamp alone gives
    gradients of 1e6.
    """
    clamped = squared_norm.clamp_min(SMALLEST_SQUARED_NORM)
    return torch.where(squared_norm > SMALLEST_SQUARED_NORM, clamped.rsqrt(), 0.0)


def unit_vectors(vectors: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
    """L2-normalised vectors; zero stays zero."""
    return vectors * inverse_norm(vectors.square().sum(-1, keepdim=True))


def token_set(
    tokens: Float[Tensor, "B T D"],
    mask: Bool[Tensor, "B T"] | Integer[Tensor, "B T"] | None,
    num_heads: int,
    *,
    normalize: bool = False,
) -> TokenSet:
    """Splits tokens into heads and computes what attention needs of them.

    Args:
        tokens: Local tokens, (B, T, D).
        mask: True (or 1) for real tokens, (B, T); None if all are. Padding may hold anything, NaN included.
        num_heads: Attention heads, which split D.
        normalize: Whether to L2-normalise the tokens first.
    """
    if mask is None:
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    mask = mask.bool()
    tokens = torch.where(mask[..., None], tokens, 0.0)
    if normalize:
        tokens = unit_vectors(tokens)
    # an item without tokens attends over its zeroed padding: context 0, where a row of -inf would give NaN
    ignored = ~mask & mask.any(-1, keepdim=True)
    return TokenSet(
        heads=tuple(head.contiguous() for head in tokens.chunk(num_heads, -1)),
        bias=tokens.new_zeros(mask.shape).masked_fill(ignored, -torch.inf),
        share=mask / mask.sum(-1, keepdim=True).clamp_min(1).to(tokens.dtype),
        inverse_norm=inverse_norm(tokens.square().sum(-1)),
    )


def mean_similarity(over_words: DirectedAttention, over_regions: DirectedAttention) -> Float[Tensor, "N M"]:
    """S_local, the mean of both directions."""
    return (over_words.similarity().T + over_regions.similarity()) / 2


def self_attention(tokens: TokenSet, scale: float) -> Float[Tensor, "B 1 HT"]:
    """Attention of an item's tokens over themselves, averaged over them; as `DirectedAttention.mean` between items."""
    weights = [_attention_weights(head @ head.transpose(1, 2), tokens.bias, scale) for head in tokens.heads]
    return torch.cat([head @ tokens.share[..., None] for head in weights], 1).transpose(1, 2)


def score_in_tiles(
    num_images: int, num_texts: int, pair_elements: int, score_tile: Callable[[slice, slice], Tensor]
) -> Float[Tensor, "N M"]:
    """The score matrix, computed tile by tile.

    Args:
        num_images: N.
        num_texts: M.
        pair_elements: Elements of the largest tensor that a tile needs for each of its pairs.
        score_tile: Gives the scores of a slice of the images with a slice of the texts.
    """
    height, width = _tile_shape(num_images, num_texts, max(1, TILE_ELEMENTS // max(1, pair_elements)))
    rows = [
        torch.cat([score_tile(rows, columns) for columns in _slices(num_texts, width)], 1)
        for rows in _slices(num_images, height)
    ]
    return torch.cat(rows)


def _attend(queries: TokenSet, context: TokenSet, scores: list[Tensor], scale: float) -> DirectedAttention:
    """One direction, from the dot products of each head, (B * T, Q)."""
    by_item = tuple(head.unflatten(0, context.share.shape) for head in scores)
    weights = tuple(_attention_weights(head, context.bias, scale) for head in by_item)
    return DirectedAttention(queries, context, by_item, weights)


def _attention_weights(scores: Tensor, bias: Tensor, scale: float) -> Tensor:
    return torch.softmax(torch.add(bias[..., None], scores, alpha=scale), 1)


def _squared_norm(weights: Tensor, context: Tensor) -> Tensor:
    """|q'|^2 in one head, (B, Q): through the Gram matrix, or through q' itself where that is the smaller product."""
    if context.shape[1] <= context.shape[2]:
        return (context @ context.transpose(1, 2) @ weights * weights).sum(1)
    return (context.transpose(1, 2) @ weights).square().sum(1)


def _tile_shape(num_images: int, num_texts: int, max_pairs: int) -> tuple[int, int]:
    """Height and width of tiles of at most `max_pairs` pairs, as square as the matrix allows, as equal as possible."""
    height = max(1, min(num_images, math.isqrt(max_pairs)))
    width = max(1, min(num_texts, max_pairs // height))
    height = max(1, min(num_images, max_pairs // width))
    return _even(num_images, height), _even(num_texts, width)


def _even(count: int, largest: int) -> int:
    return math.ceil(count / math.ceil(count / largest)) if count else 1


def _slices(count: int, size: int) -> list[slice]:
    """Consecutive slices; one empty slice where there is nothing, so that an empty matrix comes out as one."""
    return [slice(start, start + size) for start in range(0, max(count, 1), size)]
