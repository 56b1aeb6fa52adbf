"""Random features and similarities for tests of scores."""

import torch
from torch.nn import functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.models.similarity.fused import FusedSimilarity

DIM = 32


def make_features(num_items: int, num_tokens: int, seed: int, *, unit_tokens: bool = True) -> Features:
    """Random features of unequal lengths with holes, every item with a token, float64."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_items, num_tokens, DIM, generator=generator, dtype=torch.float64)
    mask = torch.rand(num_items, num_tokens, generator=generator) < 0.7
    mask[:, 0] |= ~mask.any(1)
    tokens = F.normalize(tokens, dim=-1) if unit_tokens else 0.4 * tokens
    return Features(torch.randn(num_items, DIM, generator=generator, dtype=torch.float64), tokens, mask)


def make_similarity(seed: int = 0, **arguments: object) -> FusedSimilarity:
    """A similarity whose parameters are random, so that every one of them counts."""
    torch.manual_seed(seed)
    similarity = FusedSimilarity(DIM, **{"num_heads": 4, **arguments}).double()
    for parameter in similarity.parameters():
        torch.nn.init.normal_(parameter, std=DIM**-0.5)
    return similarity
