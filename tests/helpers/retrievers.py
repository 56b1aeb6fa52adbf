"""A small untrained `Retriever`, and pictures for it."""

import torch

from ascl_lightning import Retriever
from ascl_lightning.data.text import Vocabulary, WordTokenizer
from ascl_lightning.models import ConvImageEncoder, FusedSimilarity, ImageTextModel, WordTransformer

VOCABULARY = Vocabulary(("a", "red", "blue", "kite", "dog", "and", "two"))
TOKENIZER = WordTokenizer(VOCABULARY, max_length=8, vocab_size=9)


def small(similarity: FusedSimilarity | None = None, seed: int = 0) -> Retriever:
    """Pictures of 32 x 32, texts of at most 8 words, embeddings of width 8; the same weights for the same seed."""
    torch.manual_seed(seed)
    towers = ConvImageEncoder(image_size=32, width=8, token_dim=16), WordTransformer(9, 8, 16, 1, 2)
    model = ImageTextModel(*towers, FusedSimilarity(embed_dim=8, num_heads=2) if similarity is None else similarity)
    return Retriever(model, TOKENIZER, device="cpu")


def pictures(number: int) -> torch.Tensor:
    """Noise, (number, 3, 40, 48); fewer are the first of more."""
    return torch.stack([_picture(seed) for seed in range(number)])


def _picture(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, 40, 48), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
