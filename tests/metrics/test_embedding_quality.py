import math

import pytest
import torch
from tests.reference import metrics as reference
from torch.nn import functional as F

from ascl_lightning.metrics import alignment, uniformity


def test_alignment_by_hand():
    # texts at right angles (2), opposite (4) and equal (0)
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])

    assert alignment(images, texts, torch.tensor([1, 0, 1])) == pytest.approx((2 + 4 + 0) / 3)


def test_uniformity_by_hand():
    # squared distances: 2 (right angle), 4 (opposite), 2
    embeds = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])

    assert uniformity(embeds) == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3), rel=1e-5)
    assert uniformity(embeds[:1].repeat(5, 1)) == pytest.approx(0, abs=1e-6)
    assert math.isnan(uniformity(embeds[:1]))


@pytest.mark.parametrize("block", [1, 3, 10, 11, 64])
def test_uniformity_in_blocks_equals_the_loop_and_pdist(block):
    embeds = F.normalize(torch.randn(10, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)

    value = uniformity(embeds, block=block)

    assert value == pytest.approx(reference.uniformity(embeds.tolist()), rel=1e-9)
    assert value == pytest.approx(torch.pdist(embeds).square().mul(-2).exp().mean().log().item(), rel=1e-9)


def test_half_precision_embeddings():
    embeds = F.normalize(torch.randn(60, 8), dim=1).bfloat16()
    assert uniformity(embeds) == pytest.approx(uniformity(embeds.double()), rel=1e-4)
    ids = torch.arange(60).flip(0)
    assert alignment(embeds, embeds, ids) == pytest.approx(alignment(embeds.double(), embeds.double(), ids), rel=1e-4)
