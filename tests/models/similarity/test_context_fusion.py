"""Fusion of global vectors with contexts; `test_fusion.py` holds the scores that are made of it."""

import pytest
import torch
from tests.reference import scoring as naive
from torch import Tensor

from ascl_lightning.models.similarity.context_fusion import ContextFusion
from ascl_lightning.models.similarity.tokens import TokenSet, token_set

WIDTH, NUM_HEADS = 8, 2


def make_fusion(*, gated: bool) -> ContextFusion:
    torch.manual_seed(0)
    fusion = ContextFusion(WIDTH, gated=gated).double()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return fusion


def make_items(num_items: int, num_tokens: int) -> tuple[Tensor, TokenSet]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(num_items, num_tokens, WIDTH, generator=generator, dtype=torch.float64)
    mask = torch.ones(num_items, num_tokens).bool()
    mask[0, -1] = False
    pooled = torch.randn(num_items, WIDTH, generator=generator, dtype=torch.float64)
    return pooled, token_set(tokens, mask, NUM_HEADS)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("budget", [0, 10**9])
def test_fusion_equals_its_formula(gated: bool, budget: int) -> None:
    """A table is only built for many contexts and if it fits into memory; otherwise contexts are mapped."""
    fusion, (pooled, tokens) = make_fusion(gated=gated), make_items(4, 3)
    shares = torch.rand(4, 5, NUM_HEADS * 3, dtype=torch.float64)
    items = fusion.prepare(pooled, tokens, num_contexts=1000, memory_budget=budget)
    assert (items.table is not None) == (budget > 0)
    parts = tokens.split(2)
    fused = torch.cat(
        [
            fusion(item, part, share)
            for item, part, share in zip(items.split(parts), parts, shares.split(2), strict=True)
        ]
    )
    for i in range(4):
        for a in range(5):
            halves = shares[i, a].chunk(NUM_HEADS)
            context = torch.cat([half @ head for half, head in zip(halves, tokens.heads[:, i], strict=True)])
            expected = naive.fuse(pooled[i], context, fusion.context, fusion.gate)
            torch.testing.assert_close(fused[i, a] / fused[i, a].norm(), expected)


def test_few_contexts_need_no_table() -> None:
    pooled, tokens = make_items(4, 3)
    assert make_fusion(gated=True).prepare(pooled, tokens, num_contexts=1, memory_budget=10**9).table is None


def test_with_itself_equals_its_formula() -> None:
    fusion, (pooled, tokens) = make_fusion(gated=True), make_items(3, 4)
    fused = fusion.with_itself(pooled, tokens, scale=4.0)
    for i in range(3):
        own = torch.cat(tokens.heads[:, i].unbind(0), -1)[: 3 if i == 0 else 4]
        context = naive.mean_attended(own, own, NUM_HEADS, 4.0)
        torch.testing.assert_close(fused[i], naive.fuse(pooled[i], context, fusion.context, fusion.gate))


def test_initial_fusion_is_the_mean_of_vector_and_context() -> None:
    fusion, (pooled, tokens) = ContextFusion(WIDTH, gated=True).double(), make_items(2, 3)
    shares = torch.eye(NUM_HEADS * 3, dtype=torch.float64)[[0]].expand(2, 1, -1)  # the first token of the first head
    items = fusion.prepare(pooled, tokens, num_contexts=1, memory_budget=0)
    context = torch.cat([tokens.heads[0, :, 0], torch.zeros(2, WIDTH // 2)], -1)
    torch.testing.assert_close(fusion(items, tokens, shares)[:, 0], (pooled + context) / 2)
