"""Encoded items without a model."""

import torch
import torch.nn.functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.search.encoded import Encoded


def random_items(number: int, seed: int, width: int = 8, *, pooled_width: int | None = None) -> Encoded:
    """Random images with up to three tokens of width 2; the pooled vectors are the embeddings if they have no width."""
    draws = torch.Generator().manual_seed(seed)
    embeds = random_embeds(number, seed, width)
    pooled = embeds if pooled_width is None else torch.randn(number, pooled_width, generator=draws)
    mask = torch.rand(number, 3, generator=draws) < 0.7
    return Encoded("images", embeds, Features(pooled, torch.randn(number, 3, 2, generator=draws), mask), "a model")


def random_embeds(number: int, seed: int, width: int = 8) -> torch.Tensor:
    """L2-normalised random vectors, (number, width)."""
    return F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def assert_same_items(ours: Encoded, expected: Encoded) -> None:
    """Equal embeddings, pooled vectors and real tokens, in the same order."""
    assert (ours.kind, ours.model, ours.shares_vectors) == (expected.kind, expected.model, expected.shares_vectors)
    assert torch.equal(ours.embeds, expected.embeds)
    assert torch.equal(ours.features.pooled, expected.features.pooled)
    assert len(ours) == len(expected)
    for one, other in zip(ours.features.tokens[:, :, None], ours.features.mask, strict=True):
        assert one[~other].eq(0).all()
    for row in range(len(ours)):
        real = [items.features.tokens[row][items.features.mask[row]] for items in (ours, expected)]
        assert torch.equal(*real)
