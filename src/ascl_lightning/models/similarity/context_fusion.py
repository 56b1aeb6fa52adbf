"""Fusion of global vectors with a context from attention (AsCL, arXiv 2405.10029, section III-C, global level)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ascl_lightning.models.similarity.tokens import TokenSet, scoring_dtype, unit_vectors


@dataclass(frozen=True)
class Fusable:
    """B items, and the parts of their fusion that do not depend on the context."""

    pooled: Float[Tensor, "B D"]
    """Global vectors."""
    gate_offset: Float[Tensor, "B D"] | None
    """The part of the gate's logits that does not depend on the context."""
    weight: Float[Tensor, "E D"]
    """Linear map of a context. With a gate, E = 2 D: the second half gives the rest of the gate's logits."""
    table: Float[Tensor, "B H T E"] | None
    """Each head's slice of each token, mapped by `weight`; None: contexts are computed first and then mapped."""

    def split(self, tokens: Sequence[TokenSet]) -> list["Fusable"]:
        """Parts that match the parts of the tokens."""
        sizes = [part.heads.shape[1] for part in tokens]
        offsets = repeat(None) if self.gate_offset is None else self.gate_offset.split(sizes)
        tables = repeat(None) if self.table is None else self._split_table(tokens, sizes)
        parts = zip(self.pooled.split(sizes), offsets, tables, strict=False)
        return [Fusable(pooled, offset, self.weight, table) for pooled, offset, table in parts]

    def map_contexts(self, tokens: TokenSet, shares: Float[Tensor, "B A HT"]) -> Float[Tensor, "B A E"]:
        """The mean attended vectors, mapped by `weight`; both ways are exact."""
        if self.table is not None:
            return shares @ self.table.flatten(1, 2)
        by_head = shares.unflatten(-1, (len(tokens.heads), -1)).unbind(-2)
        heads = zip(by_head, tokens.heads.to(shares.dtype), strict=True)
        return torch.cat([share @ head for share, head in heads], -1) @ self.weight.T

    def _split_table(self, tokens: Sequence[TokenSet], sizes: list[int]) -> list[Tensor]:
        assert self.table is not None
        parts = zip(self.table.split(sizes), tokens, strict=True)
        # each part is used in many tiles, so the padding is removed once
        return [table[:, :, : part.heads.shape[2]].contiguous() for table, part in parts]


class ContextFusion(nn.Module):
    """Fuses an item's global vector v with its context c from attention (AsCL, section III-C).

    With a gate, the result is `g * v + (1 - g) * c` with `g = sigmoid(Linear([v ; c]))`, elementwise; without, it is c.
    The context is `c = Linear(mean of the attended vectors)`.

    `Linear` of the context is initialised to the identity, and the gate to g = 1/2. The identity keeps contexts in the
    space of the tokens, which the local level aligns from the first step on; a random map would make the global score
    contradict it. Zero weights of the gate pass gradients to both inputs, and the sigmoid is steepest there.

    Args:
        embed_dim: D.
        gated: Use a gate.
    """

    def __init__(self, embed_dim: int, *, gated: bool) -> None:
        super().__init__()
        self.context = nn.Linear(embed_dim, embed_dim)
        nn.init.eye_(self.context.weight)
        nn.init.zeros_(self.context.bias)
        self.gate = nn.Linear(2 * embed_dim, embed_dim) if gated else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def prepare(self, pooled: Float[Tensor, "B D"], tokens: TokenSet, num_contexts: int, memory_budget: int) -> Fusable:
        """Computes what does not depend on the context.

        Args:
            pooled: Global vectors of B items, (B, D).
            tokens: Tokens of the same items, over which contexts attend.
            num_contexts: Number of contexts per item; a table saves time if there are many.
            memory_budget: Maximum bytes of a table.
        """
        dtype = pooled.dtype
        weight, offset = self.context.weight.to(dtype), None
        if self.gate is not None:
            of_pooled, of_context = self.gate.weight.to(dtype).chunk(2, 1)
            offset = pooled @ of_pooled.T + of_context @ self.context.bias.to(dtype) + self.gate.bias.to(dtype)
            # one map for the context and its part of the gate's logits: two linear maps in a row are one matrix
            weight = torch.cat([weight, of_context @ weight])
        pays = memory_budget > 0 and _table_pays(tokens, weight, num_contexts, memory_budget)
        table = _table(tokens, weight) if pays else None
        return Fusable(pooled, offset, weight, table)

    def forward(self, items: Fusable, tokens: TokenSet, shares: Float[Tensor, "B A HT"]) -> Float[Tensor, "B A D"]:
        """Fuses each item with each of A contexts.

        Args:
            items: From `prepare`, or a part of it.
            tokens: The tokens of the same items.
            shares: Mean attention of each context over the items' tokens, heads concatenated, (B, A, H * T).

        Returns:
            Fused vectors, not normalised, (B, A, D).
        """
        mapped = items.map_contexts(tokens, shares)
        bias = self.context.bias.to(mapped.dtype)
        if items.gate_offset is None:
            return mapped + bias
        context, logits = mapped.chunk(2, -1)
        gate = torch.sigmoid(logits + items.gate_offset[:, None])
        return torch.lerp(context + bias, items.pooled[:, None], gate)

    def with_itself(self, pooled: Float[Tensor, "B D"], tokens: TokenSet, scale: float) -> Float[Tensor, "B D"]:
        """Fuses each item with a context from its own tokens; returns L2-normalised vectors, (B, D).

        Args:
            pooled: Global vectors, (B, D).
            tokens: Tokens of the same items.
            scale: Factor of the logits of the self-attention.
        """
        items = self.prepare(pooled.to(scoring_dtype(pooled, tokens.heads)), tokens, num_contexts=1, memory_budget=0)
        return unit_vectors(self(items, tokens, _self_attention(tokens, scale))[:, 0])


def _self_attention(tokens: TokenSet, scale: float) -> Float[Tensor, "B 1 HT"]:
    """Self-attention of each item's tokens, averaged over the queries; the layout is that of `Attended.shares`."""
    heads = tokens.heads.to(tokens.bias.dtype)
    logits = torch.add(tokens.bias[..., None], heads @ heads.mT, alpha=scale)
    shares = torch.softmax(logits, -2) @ tokens.share[..., None]
    return shares.permute(1, 3, 0, 2).flatten(2)


def _table(tokens: TokenSet, weight: Tensor) -> Tensor:
    heads = tokens.heads.to(weight.dtype).flatten(1, 2)
    mapped = heads @ weight.T.unflatten(0, (len(heads), -1))
    return mapped.unflatten(1, tokens.bias.shape).transpose(0, 1).contiguous()


def _table_pays(tokens: TokenSet, weight: Tensor, num_contexts: int, memory_budget: int) -> bool:
    """Whether mapping all tokens by (E, D) takes fewer multiplications than mapping contexts, and fits into memory."""
    num_heads, num_items, num_tokens, _ = tokens.heads.shape
    out_width, width = weight.shape
    direct_cost = num_contexts * width * (num_tokens + out_width)
    table_cost = num_tokens * out_width * (width + num_contexts * num_heads)
    table_bytes = num_items * num_heads * num_tokens * out_width * weight.element_size()
    return table_cost < direct_cost and table_bytes <= memory_budget
