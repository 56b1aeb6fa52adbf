"""A small convolutional text tower, trained from scratch on a vocabulary of words."""

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ascl_lightning.data.batch import Features, TextSpec, TokenizedTexts
from ascl_lightning.models.towers.text import TextEncoder, masked_mean
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.runtime.number_types import PositiveInt


class WordConvolution(TextEncoder):
    """Residual convolutions over words, trained from scratch on the vocabulary of the training captions.

    Convolutions over word vectors as in Kim (EMNLP 2014, arXiv 1408.5882); the pre-norm residual blocks are ours. The
    vector of a word depends on the words up to `depth * (kernel_size // 2)` places away. To bind an adjective to its
    noun, a transformer must first learn to attend to neighbours; a convolution sees them from the start, which makes
    training on few or short captions much faster.

    Id 0 is padding and id 1 an unknown word; there are no other special tokens. The global vector is the mean over the
    words.

    Args:
        vocab_size: Maximum size of the vocabulary, ids 0 and 1 included.
        max_length: Maximum number of words in a text.
        width: Width of the word vectors.
        depth: Number of blocks.
        kernel_size: Number of words that a convolution spans, odd.
        tuning: How the tower is trained.

    Raises:
        ValueError: If `kernel_size` is even.
    """

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(2)] = 1024,
        max_length: PositiveInt = 32,
        width: PositiveInt = 128,
        depth: PositiveInt = 2,
        kernel_size: PositiveInt = 5,
        tuning: Tuning = Tuning(),
    ) -> None:
        super().__init__(tuning=tuning)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is even; a word in the middle needs an odd number")
        self.words = nn.Embedding(vocab_size, width, padding_idx=0)
        nn.init.normal_(self.words.weight, std=0.02)
        self.blocks = nn.ModuleList(_Block(width, kernel_size) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.spec = TextSpec(max_length=max_length, vocab_size=vocab_size)
        self.pooled_dim = self.token_dim = width

    def _encode(self, texts: TokenizedTexts) -> Features:
        mask, tokens = texts.attention_mask, self.words(texts.input_ids)
        for block in self.blocks:
            tokens = block(tokens, mask)
        tokens = self.norm(tokens)
        return Features(masked_mean(tokens, mask), tokens, self._words(texts))


class _Block(nn.Module):
    """x + linear(gelu(convolution(norm(x)))); padding counts as zeros, as beyond the ends of a text."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2)
        self.linear = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "M L T"], mask: Bool[Tensor, "M L"]) -> Float[Tensor, "M L T"]:
        inputs = self.norm(tokens).masked_fill(~mask[..., None], 0.0)
        mixed: Tensor = tokens + self.linear(F.gelu(self.convolution(inputs.mT).mT))
        return mixed
