"""A small text tower, trained from scratch on a vocabulary of words."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import nn

from ascl_lightning.data.batch import Features, TextSpec, TokenizedTexts
from ascl_lightning.models.towers.text import TextEncoder, masked_mean
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.runtime.number_types import PositiveInt, ShareBelowOne


class WordTransformer(TextEncoder):
    """A small pre-norm transformer, trained from scratch on the vocabulary of the training captions.

    Id 0 is padding and id 1 an unknown word; there are no other special tokens. The global vector is the mean over the
    words.

    Args:
        vocab_size: Maximum size of the vocabulary, ids 0 and 1 included.
        max_length: Maximum number of words in a text.
        width: Width of the word vectors.
        depth: Number of layers.
        num_heads: Attention heads of each layer.
        dropout: Dropout probability.
        tuning: How the tower is trained.

    Raises:
        ValueError: If `width` is not divisible by `num_heads`.
    """

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(2)] = 1024,
        max_length: PositiveInt = 32,
        width: PositiveInt = 128,
        depth: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        dropout: ShareBelowOne = 0.0,
        tuning: Tuning = Tuning(),
    ) -> None:
        super().__init__(tuning=tuning)
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
        self.words = nn.Embedding(vocab_size, width, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(max_length, width))
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        # nested tensors need post-norm layers: enabling them here only gives a warning
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.spec = TextSpec(max_length=max_length, vocab_size=vocab_size)
        self.pooled_dim = self.token_dim = width

    def _encode(self, texts: TokenizedTexts) -> Features:
        mask = texts.attention_mask
        embedded = self.words(texts.input_ids) + self.positions[: mask.shape[1]]
        # a text without tokens attends over its padding: a softmax over no keys would give NaN
        ignored = ~mask & mask.any(dim=1, keepdim=True)
        tokens = self.layers(embedded, src_key_padding_mask=ignored)
        return Features(masked_mean(tokens, mask), tokens, self._words(texts))
