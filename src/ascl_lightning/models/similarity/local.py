"""Similarity of every image with every text from cross-attention between their local tokens.

Source: AsCL (arXiv 2405.10029), section III-C, local level. `attention` computes the exact scores without attended
vectors, `tiles` computes the matrix in bounded memory.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from ascl_lightning.models.similarity.attention import (
    CrossAttention,
    attend_both_ways,
    attend_over_regions,
    attend_over_words,
    mean_similarity,
)
from ascl_lightning.models.similarity.tiles import half_of_free_memory, score_in_tiles, tile_shape
from ascl_lightning.models.similarity.tokens import LengthOrder, TokenSet, token_set

Direction = Literal["both", "image_to_text", "text_to_image"]
DIRECTIONS = ("both", "image_to_text", "text_to_image")


@torch.compiler.disable  # sizes of tiles depend on lengths
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
    memory_budget: int | None = None,
) -> Float[Tensor, "N M"]:
    """Local similarity of every image with every text (AsCL, section III-C; S_local).

    Tokens are not normalised. Scores are computed in float32, or float64 if a token tensor is, also under autocast. A
    zero vector has cosine 0; a text without words, or an image without regions, scores 0. With gradients, memory grows
    with N + M and N * M, not with N * M * K * L.

    Args:
        image_tokens: Region vectors, (N, K, D).
        text_tokens: Word vectors, (M, L, D).
        text_mask: True (or 1) for real words, (M, L); other entries have no effect.
        image_mask: True (or 1) for real regions, (N, K); None if all are.
        num_heads: Attention heads, which split D.
        image_to_text_scale: Factor of the logits when regions attend over words.
        text_to_image_scale: Factor of the logits when words attend over regions.
        direction: `"image_to_text"`: mean over regions of the cosine with their attended words; `"text_to_image"`:
            mean over words of the cosine with their attended regions; `"both"`: the mean of the two.
        memory_budget: Bytes for scoring, in addition to tokens and scores; None: half of the free memory.

    Returns:
        Similarities in [-1, 1], (N, M), in float32, or in float64 if a token tensor is.

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
        raise ValueError(f"{image_tokens.shape[-1]} dimensions are not divisible by {num_heads} heads")
    attention = CrossAttention(num_heads, image_to_text_scale, text_to_image_scale)
    if image_mask is None:
        image_mask = image_tokens.new_ones(image_tokens.shape[:2])
    image_mask, text_mask = image_mask.bool(), text_mask.bool()
    with torch.autocast(image_tokens.device.type, enabled=False):
        rows, columns = LengthOrder(image_mask), LengthOrder(text_mask)
        images = token_set(rows.sort(image_tokens), rows.sort(image_mask), num_heads)
        texts = token_set(columns.sort(text_tokens), columns.sort(text_mask), num_heads)
        budget = half_of_free_memory(images.bias.device) if memory_budget is None else memory_budget
        height, width = tile_shape(images, texts, budget)
        return columns.unsort(
            rows.unsort(score_in_tiles(images.split(height), texts.split(width), _tile_score(direction, attention)), 0),
            1,
        )


def _tile_score(direction: Direction, attention: CrossAttention) -> Callable[[TokenSet, TokenSet], Tensor]:
    if direction == "image_to_text":
        return lambda images, texts: attend_over_words(images, texts, attention).similarity.T
    if direction == "text_to_image":
        return lambda images, texts: attend_over_regions(images, texts, attention).similarity
    return lambda images, texts: mean_similarity(*attend_both_ways(images, texts, attention))
