"""Where an image supports a text, word by word and region by region, in the attention that scores the pair.

Source: AsCL (arXiv 2405.10029), section III-C, local level. The local score of a pair is a mean of cosines; here are
the cosines themselves, and the attention behind them.
"""

from dataclasses import dataclass
from math import isqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ascl_lightning.data.batch import Features, ImageSpec, PixelSpec
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.tokens import TokenSet, inverse_norm, token_set


@dataclass(frozen=True)
class Grounding:
    """Attention and support of P pairs; whatever belongs to padding is 0.

    The mean of `word_support` over the real words of a pair is its `s_t2i`, that of `region_support` over its real
    regions `s_i2t` (docs/method.md#local-level).
    """

    word_to_region: Float[Tensor, "P L K"]
    """Attention of each word over the regions, averaged over heads; sums to 1 for a real word."""
    region_to_word: Float[Tensor, "P K L"]
    """Attention of each region over the words, likewise."""
    word_support: Float[Tensor, "P L"]
    """Cosine of each word with the regions it attends to."""
    region_support: Float[Tensor, "P K"]
    """Cosine of each region with the words it attends to."""


def ground(similarity: FusedSimilarity, images: Features, texts: Features) -> Grounding:
    """Support of the words and regions of pairs; row i of both is a pair.

    Computed in float32 at least, with the heads, scales and normalisation of `similarity`, whatever its `local_weight`.
    Memory grows with P * (K * L * H + (K + L) * D): give pairs in blocks.

    Args:
        similarity: Whose attention it is.
        images: Projected features of P images, their tokens L2-normalised (`ImageTextModel.encode_images`).
        texts: Projected features of P texts.

    Raises:
        ValueError: If there are not as many images as texts.
    """
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts are not pairs: give one of each a row")
    attention = similarity.attention
    with torch.no_grad(), torch.autocast(images.tokens.device.type, enabled=False):
        regions = token_set(images.tokens, images.mask, attention.num_heads)
        words = token_set(texts.tokens, texts.mask, attention.num_heads, normalize=similarity.normalize_words)
        word_to_region, word_support = _attend(words, regions, attention.text_to_image_scale)
        region_to_word, region_support = _attend(regions, words, attention.image_to_text_scale)
    return Grounding(word_to_region, region_to_word, word_support, region_support)


def _attend(queries: TokenSet, context: TokenSet, scale: float) -> tuple[Tensor, Tensor]:
    """Attention (P, Q, T) of queries over a context, and the cosines (P, Q) with what comes of it."""
    dtype = torch.promote_types(queries.bias.dtype, context.bias.dtype)
    query, keys = queries.heads.to(dtype), context.heads.to(dtype)
    weights = (scale * query @ keys.mT + context.bias[:, None]).softmax(-1)
    attended = weights @ keys
    lengths = inverse_norm(query.square().sum((0, -1))) * inverse_norm(attended.square().sum((0, -1)))
    is_real = (queries.share > 0)[..., None] & (context.share > 0)[:, None]
    return weights.mean(0) * is_real, (query * attended).sum((0, -1)) * lengths


def align_positions(positions: Int[Tensor, "P L"], mask: Bool[Tensor, "P T"]) -> Int[Tensor, "P T"]:
    """Word positions of the tokens of `Features`, which may lack special tokens and the padding between.

    Stored features and a gallery's keep real tokens alone, and a text tower decides whether special tokens are real.

    Args:
        positions: From `Tokenizer.word_positions`.
        mask: Real tokens of the features of the same texts.

    Returns:
        The word of each real token; -1 for special tokens and padding.

    Examples:
        >>> align_positions(torch.tensor([[-1, 0, 1, -1]]), torch.tensor([[True, True, False]]))
        tensor([[ 0,  1, -1]])
    """
    aligned = positions.new_full(mask.shape, -1)
    for row, (of_text, is_real) in enumerate(zip(positions, mask.to(positions.device), strict=True)):
        words, num_real = of_text[of_text >= 0], int(is_real.sum())
        aligned[row, is_real] = words if len(words) == num_real else of_text[:num_real]
    return aligned


def support_by_word(support: Float[Tensor, "P L"], positions: Int[Tensor, "P L"]) -> Float[Tensor, "P W"]:
    """Support of whole words from that of their tokens: the mean over a word's pieces.

    Not the largest, which would favour words of many pieces, that is rare ones.

    Args:
        support: Support of each token.
        positions: The word that each token belongs to (`align_positions`); -1 for none.

    Returns:
        One value a word, as many as the longest text has; NaN where a text has no such word, or the tokenizer cut it.

    Examples:
        >>> support_by_word(torch.tensor([[9.0, 0.2, 0.4, 0.5]]), torch.tensor([[-1, 0, 0, 1]]))
        tensor([[0.3000, 0.5000]])
    """
    num_words = int(positions.amax()) + 1 if positions.numel() else 0
    places = torch.where(positions < 0, num_words, positions)
    sums = support.new_zeros(len(support), num_words + 1)
    counts, sums = sums.scatter_add(1, places, torch.ones_like(support)), sums.scatter_add(1, places, support)
    return (sums / counts)[:, :num_words]


def grid_side(spec: ImageSpec, num_tokens: int) -> int | None:
    """Side g of the grid in which an image's tokens lie: g * g of them, row by row, over the square that was fed.

    That square is the middle of the picture, or all of it squashed, as `PixelSpec.crop` says.

    Args:
        spec: What the image encoder is fed.
        num_tokens: K.

    Returns:
        g; None for tokens that are no grid: extracted regions.

    Examples:
        >>> grid_side(PixelSpec(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 16)
        4
    """
    side = isqrt(num_tokens)
    return side if isinstance(spec, PixelSpec) and side * side == num_tokens else None
