"""Fused similarity of images and texts: the local level and the global level with cross-modal fusion.

Source: AsCL (arXiv 2405.10029), section III-C. The published evaluation takes the context of each item from its own
true partner, so that an embedding knows its answer. Here a pairwise context belongs to the pair that is scored, and an
independent one to the item alone: the score of image i with text j depends on i and j and nothing else.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.models.scoring import (
    CrossAttention,
    PairAttention,
    TokenSet,
    inverse_norm,
    mean_similarity,
    score_in_tiles,
    scoring_dtype,
    self_attention,
    token_set,
    unit_vectors,
)

GlobalFusion = Literal["pairwise", "independent", "none"]


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

    def forward(
        self, pooled: Float[Tensor, "B D"], tokens: TokenSet, shares: Float[Tensor, "B A HT"]
    ) -> Float[Tensor, "B A D"]:
        """Fuses each item with each of A contexts drawn from a token set.

        Args:
            pooled: Global vectors of B items, (B, D).
            tokens: The B sets of tokens that were attended over.
            shares: Attention over them, averaged for each of A contexts, heads side by side, (B, A, H * T).

        Returns:
            Fused vectors, not normalised, (B, A, D).
        """
        weight, bias = self.context.weight.to(pooled.dtype), self.context.bias.to(pooled.dtype)
        if self.gate is None:
            return _project_contexts(tokens, shares, weight) + bias
        of_pooled, of_context = self.gate.weight.to(pooled.dtype).chunk(2, 1)
        # the context and its part of the gate in one projection: Linear' (Linear x) is one matrix too
        projected = _project_contexts(tokens, shares, torch.cat([weight, of_context @ weight]))
        context, gate_of_context = projected.chunk(2, -1)
        gate_of_item = F.linear(pooled, of_pooled, self.gate.bias.to(pooled.dtype)) + of_context @ bias
        gate = torch.sigmoid(gate_of_context + gate_of_item[:, None])
        return torch.lerp(context + bias, pooled[:, None], gate)


class FusedSimilarity(nn.Module):
    """Score of every image with every text, `S = u * S_local + (1 - u) * S_global` (AsCL, section III-C).

    `S_global` is the cosine of the image's and the text's fused global vectors. Scores and embeddings are computed in
    float32 (float64 where an input is), also under autocast.

    Args:
        embed_dim: D, the width of pooled vectors and tokens.
        num_heads: Attention heads, which split D.
        local_weight: u, in [0, 1]. 0 leaves the local level out, 1 the global level.
        image_to_text_scale: Factor of the logits where regions attend over words, and words over words.
        text_to_image_scale: Factor of the logits where words attend over regions, and regions over regions.
        normalize_words: Whether to L2-normalise words (regions come so from the model) and multiply both scales by
            `num_heads`: logits then no longer grow with the words' length, and a head's slice, about 1 / num_heads of
            the squared length, gets them back to scale.
        global_fusion: Where the context of a global vector comes from: `"pairwise"`, the other item of the scored
            pair; `"independent"`, the item's own tokens; `"none"`, no context: the global vectors as they are.
        text_gate: Whether the text's own global vector joins its context through a gate, as the image's does.

    Raises:
        UserError: If D is not divisible by `num_heads`, `local_weight` is outside [0, 1], `global_fusion` is
            unknown, or a `text_gate` is asked for without fusion.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 8,
        local_weight: float = 0.8,
        image_to_text_scale: float = 4.0,
        text_to_image_scale: float = 9.0,
        normalize_words: bool = False,
        global_fusion: GlobalFusion = "pairwise",
        text_gate: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise UserError(f"embed_dim {embed_dim} does not split into num_heads {num_heads}; choose a divisor of it")
        if not 0.0 <= local_weight <= 1.0:
            raise UserError(f"local_weight is {local_weight}; give a number from 0 (global alone) to 1 (local alone)")
        if global_fusion not in get_args(GlobalFusion):
            raise UserError(f"global_fusion is {global_fusion!r}; choose from {', '.join(get_args(GlobalFusion))}")
        if text_gate and global_fusion == "none":
            raise UserError("text_gate joins a context to the text's vector, and global_fusion none has no context")
        self.embed_dim = embed_dim
        self.local_weight = local_weight
        self.normalize_words = normalize_words
        self.global_fusion = global_fusion
        factor = num_heads if normalize_words else 1
        self.attention = CrossAttention(num_heads, factor * image_to_text_scale, factor * text_to_image_scale)
        if global_fusion != "none":
            self.image_fusion = ContextFusion(embed_dim, gated=True)
            self.text_fusion = ContextFusion(embed_dim, gated=text_gate)

    @property
    def uses_tokens(self) -> bool:
        """Whether scores need local tokens; if not, only `Features.pooled` is read."""
        return self.local_weight > 0 or self.global_fusion != "none"

    def forward(self, images: Features, texts: Features) -> Float[Tensor, "N M"]:
        """Fused scores; entry (i, j) depends on image i and text j alone.

        Args:
            images: Projected features of N images, their tokens L2-normalised.
            texts: Projected features of M texts.

        Returns:
            Scores in [-1, 1], (N, M).
        """
        with torch.autocast(images.pooled.device.type, enabled=False):
            levels = []
            if self.local_weight > 0 or self.global_fusion == "pairwise":
                levels.append(self._score_in_tiles(images, texts))
            if self.local_weight < 1 and self.global_fusion != "pairwise":
                levels.append((1 - self.local_weight) * self._independent_score(images, texts))
            return torch.stack(levels).sum(0)

    def image_embeds(self, images: Features) -> Float[Tensor, "N D"]:
        """L2-normalised global vectors of images that depend on no text, (N, D).

        With fusion, pairwise too, the context comes from regions attending over the image's own regions.
        """
        with torch.autocast(images.pooled.device.type, enabled=False):
            images = _rows(images, slice(None), scoring_dtype(images.pooled, images.tokens))
            if self.global_fusion == "none":
                return unit_vectors(images.pooled)
            regions = self._region_set(images)
            shares = self_attention(regions, self.attention.text_to_image_scale)
            return unit_vectors(self.image_fusion(images.pooled, regions, shares)[:, 0])

    def text_embeds(self, texts: Features) -> Float[Tensor, "M D"]:
        """L2-normalised global vectors of texts that depend on no image, (M, D).

        With fusion, pairwise too, the context comes from words attending over the text's own words.
        """
        with torch.autocast(texts.pooled.device.type, enabled=False):
            texts = _rows(texts, slice(None), scoring_dtype(texts.pooled, texts.tokens))
            if self.global_fusion == "none":
                return unit_vectors(texts.pooled)
            words = self._word_set(texts)
            shares = self_attention(words, self.attention.image_to_text_scale)
            return unit_vectors(self.text_fusion(texts.pooled, words, shares)[:, 0])

    def _region_set(self, images: Features) -> TokenSet:
        return token_set(images.tokens, images.mask, self.attention.num_heads)

    def _word_set(self, texts: Features) -> TokenSet:
        return token_set(texts.tokens, texts.mask, self.attention.num_heads, normalize=self.normalize_words)

    def _independent_score(self, images: Features, texts: Features) -> Tensor:
        image_embeds, text_embeds = self.image_embeds(images), self.text_embeds(texts)
        dtype = scoring_dtype(image_embeds, text_embeds)
        return image_embeds.to(dtype) @ text_embeds.to(dtype).T

    def _score_in_tiles(self, images: Features, texts: Features) -> Tensor:
        """The levels that need attention between images and texts: local, and global if fusion is pairwise."""
        dtype = scoring_dtype(images.pooled, images.tokens, texts.pooled, texts.tokens)
        pair_elements = self.attention.num_heads * images.tokens.shape[1] * texts.tokens.shape[1]
        if self.global_fusion == "pairwise":
            pair_elements = max(pair_elements, 2 * images.tokens.shape[2])

        def score_tile(rows: slice, columns: slice) -> Tensor:
            return self._score_tile(_rows(images, rows, dtype), _rows(texts, columns, dtype))

        return score_in_tiles(images.tokens.shape[0], texts.tokens.shape[0], pair_elements, score_tile)

    def _score_tile(self, images: Features, texts: Features) -> Tensor:
        regions, words = self._region_set(images), self._word_set(texts)
        pairs = PairAttention(regions, words, self.attention)
        over_words, over_regions = pairs.over_words(), pairs.over_regions()
        levels = []
        if self.local_weight > 0:
            levels.append(self.local_weight * mean_similarity(over_words, over_regions))
        if self.local_weight < 1 and self.global_fusion == "pairwise":
            image_vectors = self.image_fusion(images.pooled, regions, over_regions.mean())
            text_vectors = self.text_fusion(texts.pooled, words, over_words.mean())
            levels.append((1 - self.local_weight) * _cosine(image_vectors, text_vectors.transpose(0, 1)))
        return torch.stack(levels).sum(0)


def _rows(features: Features, rows: slice, dtype: torch.dtype) -> Features:
    return Features(features.pooled[rows].to(dtype), features.tokens[rows].to(dtype), features.mask[rows])


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    lengths = inverse_norm(first.square().sum(-1)) * inverse_norm(second.square().sum(-1))
    return (first * second).sum(-1) * lengths


def _project_contexts(tokens: TokenSet, shares: Tensor, weight: Tensor) -> Tensor:
    """A linear map of the mean attended vectors, (B, A, E), for a map `weight` (E, D).

    Both ways are exact. A table of the mapped token slices is made once per item and then weighted for each of the A
    contexts; the direct way writes the mean attended vectors out and maps each. Many contexts of few tokens make the
    table pay.
    """
    num_contexts, width = shares.shape[1], weight.shape[1]
    num_slices, num_tokens = shares.shape[2], tokens.share.shape[1]
    direct_cost = num_contexts * width * (num_tokens + weight.shape[0])
    table_cost = (num_tokens * width + num_contexts * num_slices) * weight.shape[0]
    weight_of_head = weight.T.chunk(len(tokens.heads))
    if table_cost < direct_cost:
        mapped = [head @ part for head, part in zip(tokens.heads, weight_of_head, strict=True)]
        return shares @ torch.cat(mapped, 1)
    share_of_head = shares.chunk(len(tokens.heads), -1)
    attended = [share @ head for share, head in zip(share_of_head, tokens.heads, strict=True)]
    return torch.cat(attended, -1) @ weight.T
