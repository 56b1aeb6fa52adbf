"""Global vectors that take in a context from attention (AsCL, arXiv 2405.10029, section III-C, global level)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ascl_lightning.models.similarity.tokens import TokenSet, scoring_dtype, unit_vectors


@dataclass(frozen=True)
class Fusable:
    """B items with what their fusion with any context needs, computed once."""

    pooled: Float[Tensor, "B D"]
    """Global vectors."""
    gate_offset: Float[Tensor, "B D"] | None
    """The part of the gate's logits that comes from the item alone."""
    weight: Float[Tensor, "E D"]
    """Map of a context; with a gate, above its map to the other part of the gate's logits."""
    table: Float[Tensor, "B H T E"] | None
    """Each head's slice of each token under `weight`, or None: then contexts are written out and mapped."""

    def split(self, tokens: Sequence[TokenSet]) -> list["Fusable"]:
        """Parts that go with consecutive parts of the tokens."""
        sizes = [part.heads.shape[1] for part in tokens]
        offsets = repeat(None) if self.gate_offset is None else self.gate_offset.split(sizes)
        tables = repeat(None) if self.table is None else self._split_table(tokens, sizes)
        parts = zip(self.pooled.split(sizes), offsets, tables, strict=False)
        return [Fusable(pooled, offset, self.weight, table) for pooled, offset, table in parts]

    def map_contexts(self, tokens: TokenSet, shares: Float[Tensor, "B A HT"]) -> Float[Tensor, "B A E"]:
        """The mean attended vectors under `weight`; both ways are exact."""
        if self.table is not None:
            return shares @ self.table.flatten(1, 2)
        heads = zip(shares.chunk(len(tokens.heads), -1), tokens.heads.to(shares.dtype), strict=True)
        return torch.cat([share @ head for share, head in heads], -1) @ self.weight.T

    def _split_table(self, tokens: Sequence[TokenSet], sizes: list[int]) -> list[Tensor]:
        assert self.table is not None
        parts = zip(self.table.split(sizes), tokens, strict=True)
        # each part is used in many tiles: cut it to its own length once
        return [table[:, :, : part.heads.shape[2]].contiguous() for table, part in parts]


class ContextFusion(nn.Module):
    """Joins an item's global vector v with the context c that attention gives it (AsCL, section III-C).

    With a gate, `g * v + (1 - g) * c`, `g = sigmoid(Linear([v ; c]))` elementwise; without, c alone. In both,
    `c = Linear(mean of the attended vectors)`.

    Training starts from the identity in `Linear` and from g = 1/2. The identity leaves contexts in the space of the
    tokens, which the local level aligns from the first step on, so that the global score agrees with it from the
    start where a random map would contradict it; an even gate, from zero weights, passes gradient to both of its
    inputs, and the sigmoid is steepest there.

    Args:
        embed_dim: D.
        gated: Whether the item's own global vector joins.
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
        """What does not change from context to context.

        Args:
            pooled: Global vectors of B items, (B, D).
            tokens: The B sets of tokens that contexts are drawn from.
            num_contexts: How many contexts each item will meet: many make a table pay.
            memory_budget: Bytes that a table may take.
        """
        dtype = pooled.dtype
        weight, offset = self.context.weight.to(dtype), None
        if self.gate is not None:
            of_pooled, of_context = self.gate.weight.to(dtype).chunk(2, 1)
            offset = pooled @ of_pooled.T + of_context @ self.context.bias.to(dtype) + self.gate.bias.to(dtype)
            # the context and its part of the gate in one map: Linear' (Linear x) is one matrix too
            weight = torch.cat([weight, of_context @ weight])
        table = _table(tokens, weight) if _table_pays(tokens, weight, num_contexts, memory_budget) else None
        return Fusable(pooled, offset, weight, table)

    def forward(self, items: Fusable, tokens: TokenSet, shares: Float[Tensor, "B A HT"]) -> Float[Tensor, "B A D"]:
        """Fuses each item with each of A contexts.

        Args:
            items: From `prepare`, or a part of it.
            tokens: The tokens of the same items.
            shares: Attention over the items' tokens, averaged for each context, heads side by side, (B, A, H * T).

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
        """Fuses each item with a context from its own tokens: normalised vectors, (B, D).

        Args:
            pooled: Global vectors, (B, D).
            tokens: Tokens of the same items.
            scale: Factor of the logits with which the tokens attend over each other.
        """
        items = self.prepare(pooled.to(scoring_dtype(pooled, tokens.heads)), tokens, num_contexts=1, memory_budget=0)
        return unit_vectors(self(items, tokens, _self_attention(tokens, scale))[:, 0])


def _self_attention(tokens: TokenSet, scale: float) -> Float[Tensor, "B 1 HT"]:
    """Attention of an item's tokens over themselves, averaged over them; as `Attended.shares` between items."""
    heads = tokens.heads.to(tokens.bias.dtype)
    logits = torch.add(tokens.bias[..., None], heads @ heads.mT, alpha=scale)
    shares = torch.softmax(logits, -2) @ tokens.share[..., None]
    return shares.permute(1, 3, 0, 2).flatten(2)


def _table(tokens: TokenSet, weight: Tensor) -> Tensor:
    heads = tokens.heads.to(weight.dtype).flatten(1, 2)
    mapped = heads @ weight.T.unflatten(0, (len(heads), -1))
    return mapped.unflatten(1, tokens.bias.shape).transpose(0, 1).contiguous()


def _table_pays(tokens: TokenSet, weight: Tensor, num_contexts: int, memory_budget: int) -> bool:
    """Whether a table of all tokens under the map (E, D) takes fewer products than mapping contexts, and has room."""
    num_heads, num_items, num_tokens, _ = tokens.heads.shape
    out_width, width = weight.shape
    direct_cost = num_contexts * width * (num_tokens + out_width)
    table_cost = num_tokens * out_width * (width + num_contexts * num_heads)
    table_bytes = num_items * num_heads * num_tokens * out_width * weight.element_size()
    return table_cost < direct_cost and table_bytes <= memory_budget
