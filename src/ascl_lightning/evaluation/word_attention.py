"""Attention between the words of a caption and the regions of an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.models.similarity.grounding import Grounding, align_positions


@dataclass(frozen=True)
class WordAttention:
    """Attention between the W words of a text that were read and the K regions of an image."""

    words: list[str]
    word_to_region: list[list[float]]
    """(W, K): mean over a word's tokens; each row sums to 1."""
    region_to_word: list[list[float]]
    """(K, W): sum over a word's tokens; the rest to 1 is attention to special tokens."""
    word_support: list[float]
    """(W,): cosine of a word with its attended region feature, mean over its tokens."""
    region_support: list[float]
    """(K,): cosine of a region with its attended word feature."""


def word_attention(
    grounding: Grounding,
    image_mask: Tensor,
    text_mask: Tensor,
    positions: Int[Tensor, "P L"],
    texts: Sequence[str],
) -> list[WordAttention]:
    """Attention of tokens, aggregated by word.

    Args:
        grounding: Grounding of P pairs.
        image_mask: True for real regions, (P, K).
        text_mask: True for real tokens, (P, L').
        positions: Result of `Tokenizer.word_positions` for the texts.
        texts: The tokenised texts, words separated by spaces.
    """
    aligned = align_positions(positions, text_mask)
    return [
        _of_pair(
            grounding.word_to_region[pair][:, image_mask[pair]],
            grounding.region_to_word[pair][image_mask[pair]],
            grounding.word_support[pair],
            grounding.region_support[pair][image_mask[pair]],
            aligned[pair],
            text.split(),
        )
        for pair, text in enumerate(texts)
    ]


def _of_pair(
    word_to_region: Float[Tensor, "L K"],
    region_to_word: Float[Tensor, "K L"],
    word_support: Float[Tensor, " L"],
    region_support: Float[Tensor, " K"],
    positions: Int[Tensor, " L"],
    words: list[str],
) -> WordAttention:
    read = sorted(set(positions[positions >= 0].tolist()))
    # one row per word, true at its tokens
    tokens = torch.stack([positions == word for word in read]).to(word_to_region) if read else positions.new_zeros(0, 0)
    if not read:
        return WordAttention([], [], [[] for _ in region_support], [], _plain(region_support))
    mean = tokens / tokens.sum(1, keepdim=True)
    return WordAttention(
        [words[word] for word in read],
        _plain(mean @ word_to_region),
        _plain(region_to_word @ tokens.T),
        _plain(mean @ word_support),
        _plain(region_support),
    )


def _plain(values: Tensor) -> Any:
    """Rounds to four digits, which suffice for the HTML report."""
    return values.double().mul(1e4).round().div(1e4).tolist()
