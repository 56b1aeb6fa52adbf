"""Support of each word and region of an image-text pair, from the local level.

Source: AsCL (arXiv 2405.10029), section III-C, local level. The local score of a pair aggregates cosines; this module
returns the cosines and the attention. With `LateInteraction`, all attention of a token is on its best match.
"""

from dataclasses import dataclass
from math import isqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ascl_lightning.data.batch import Features, ImageSpec, PixelSpec
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.tokens import token_set


@dataclass(frozen=True)
class Grounding:
    """Attention and support of P pairs; entries of padding are 0.

    The aggregate of `word_support` over the real words of a pair is its `s_t2i`, that of `region_support` over its real
    regions `s_i2t`; both are means unless the local level says otherwise (docs/method.md#local-level).
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
    """Support of the words and regions of pairs: image i with text i.

    Computed in float32 or float64 with the heads, scales and normalisation of `similarity`; `local_weight` is not used.
    Memory grows with P * (K * L * H + (K + L) * D), so pass many pairs in blocks.

    Args:
        similarity: The similarity whose local level is used.
        images: Projected features of P images, with L2-normalised tokens (`ImageTextModel.encode_images`).
        texts: Projected features of P texts.

    Raises:
        ValueError: If the numbers of images and texts differ.
    """
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts are not pairs: give one text per image")
    attention = similarity.attention
    with torch.no_grad(), torch.autocast(images.tokens.device.type, enabled=False):
        regions = token_set(images.tokens, images.mask, attention.num_heads)
        words = token_set(texts.tokens, texts.mask, attention.num_heads, normalize=similarity.normalize_words)
        local = similarity.local
        word_to_region, word_support = local.support(words, regions, attention.text_to_image_scale)
        region_to_word, region_support = local.support(regions, words, attention.image_to_text_scale)
    return Grounding(word_to_region, region_to_word, word_support, region_support)


def align_positions(positions: Int[Tensor, "P L"], mask: Bool[Tensor, "P T"]) -> Int[Tensor, "P T"]:
    """Word positions of the tokens of `Features`, in which special tokens and inner padding may be missing.

    Stored features and galleries contain only real tokens, and the text tower decides whether special tokens are real.

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
    """Support of each word: the mean over its tokens.

    The maximum would favour words of many tokens, which are rare words.

    Args:
        support: Support of each token.
        positions: The word that each token belongs to (`align_positions`); -1 for none.

    Returns:
        (P, W), W the words of the longest text; NaN for words that a text does not have or the tokenizer cut off.

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
    """Side g of the grid of an image's tokens: g * g tokens, row by row, over the encoder's square input.

    That square is the centre of the picture, or the whole picture squashed (`PixelSpec.crop`).

    Args:
        spec: Input of the image encoder.
        num_tokens: K.

    Returns:
        g; None for tokens without a grid, such as extracted regions.

    Examples:
        >>> grid_side(PixelSpec(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 16)
        4
    """
    side = isqrt(num_tokens)
    return side if isinstance(spec, PixelSpec) and side * side == num_tokens else None
