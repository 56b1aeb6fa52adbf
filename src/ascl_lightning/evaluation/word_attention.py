"""What the words of a caption look at in its picture, and which words the picture's regions look at."""

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
    """(W, K): the mean over a word's tokens; each row sums to 1."""
    region_to_word: list[list[float]]
    """(K, W): the sum over a word's tokens; what is missing to 1 goes to special tokens."""
    word_support: list[float]
    """(W,): cosine of a word with what it attends to, the mean over its tokens."""
    region_support: list[float]
    """(K,): cosine of a region with the words it attends to."""


def word_attention(
    grounding: Grounding,
    image_mask: Tensor,
    text_mask: Tensor,
    positions: Int[Tensor, "P L"],
    texts: Sequence[str],
) -> list[WordAttention]:
    """Attention of tokens, gathered by word.

    Args:
        grounding: Of P pairs.
        image_mask: Real regions, (P, K).
        text_mask: Real tokens, (P, L').
        positions: From `Tokenizer.word_positions` of the texts.
        texts: The texts as they were tokenised: words between spaces.
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
    # one row a word, true at its tokens
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
    """Rounded: pages show them as shades and in percent."""
    return values.double().mul(1e4).round().div(1e4).tolist()
