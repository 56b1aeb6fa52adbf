"""Fused similarity of images and texts: the local level and the global level with cross-modal fusion.

Source: AsCL (arXiv 2405.10029), section III-C. The published evaluation takes the context of each item from its true
partner, which leaks the answer into the embedding. Here a pairwise context comes from the pair that is scored, and an
independent context from the item itself: the score of image i with text j depends only on i and j.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.models.similarity.attention import AttentionSettings
from ascl_lightning.models.similarity.context_fusion import ContextFusion, Fusable
from ascl_lightning.models.similarity.local import CrossAttention, LocalLevel
from ascl_lightning.models.similarity.tiles import half_of_free_memory, score_in_tiles, tile_shape
from ascl_lightning.models.similarity.tokens import (
    LengthOrder,
    TokenSet,
    inverse_norm,
    scoring_dtype,
    token_set,
    unit_vectors,
)
from ascl_lightning.runtime.compilation import never_compiled
from ascl_lightning.runtime.number_types import PositiveFloat, PositiveInt, UnitInterval

GlobalFusion = Literal["pairwise", "independent", "none"]
_Part = tuple[TokenSet, Fusable | None]


@dataclass(frozen=True)
class Comparable:
    """Prepared items with everything that can be computed before a comparison, for use in any number of them."""

    features: Features
    """From `FusedSimilarity.prepare_images` or `prepare_texts`."""
    order: LengthOrder | None
    """Items sorted by length; None if scores need no attention."""
    tokens: TokenSet | None
    """The tokens, in this order."""


class FusedSimilarity(nn.Module):
    """Score of every image with every text, `S = u * S_local + (1 - u) * S_global` (AsCL, section III-C).

    `S_local` is that of the injected local level, and `S_global` the cosine of the image's and the text's fused global
    vectors. Scores and embeddings are computed in
    float32 (float64 if an input is float64), also under autocast.

    Args:
        embed_dim: D, the width of pooled vectors.
        num_heads: Attention heads, which split the width of tokens.
        local_weight: u, in [0, 1]. 0 uses only the global level, 1 only the local level.
        image_to_text_scale: Factor of the logits when regions or words attend over words.
        text_to_image_scale: Factor of the logits when words or regions attend over regions.
        normalize_words: L2-normalise words (regions are already normalised) and multiply both scales by `num_heads`.
            Logits then do not grow with the norms of words; the factor compensates for a head's slice, which has
            about 1 / num_heads of the squared norm.
        global_fusion: Source of the context of a global vector: `"pairwise"`, the other item of the scored pair;
            `"independent"`, the item's own tokens; `"none"`, no context.
        text_gate: Combine the text's global vector with its context through a gate, as for images. If False, the
            context replaces it.
        memory_budget: Bytes for scoring, in addition to features and scores; None: half of the free memory.
        local: Local level; None: `CrossAttention`, as published.
        local_dim: Width of tokens; None: D. Fusion needs that of D.
        whole_texts: Each text has one token, a map of the tower's global vector, in the place of its words. With
            `CrossAttention("text_to_image")`, the text then attends over regions as a whole, as in X-Pool (Gorti et
            al., CVPR 2022, arXiv 2203.15086), at a fraction of the time. No score reads single words then.

    Raises:
        UserError: If the width of tokens is not divisible by `num_heads`, or is not D with fusion; `local_weight` is
            outside [0, 1]; `global_fusion` is unknown; `text_gate` is set without fusion; or `local` has parameters
            for tokens of another width.
    """

    def __init__(
        self,
        embed_dim: PositiveInt,
        num_heads: PositiveInt = 8,
        local_weight: UnitInterval = 0.8,
        image_to_text_scale: PositiveFloat = 4.0,
        text_to_image_scale: PositiveFloat = 9.0,
        normalize_words: bool = False,
        global_fusion: GlobalFusion = "pairwise",
        text_gate: bool = False,
        memory_budget: PositiveInt | None = None,
        local: LocalLevel | None = None,
        local_dim: PositiveInt | None = None,
        whole_texts: bool = False,
    ) -> None:
        super().__init__()
        self.local_dim = embed_dim if local_dim is None else local_dim
        if num_heads < 1 or self.local_dim % num_heads:
            name = "embed_dim" if local_dim is None else "local_dim"
            raise UserError(
                f"{name} {self.local_dim} is not divisible by num_heads {num_heads}; choose a divisor of it"
            )
        if self.local_dim != embed_dim and global_fusion != "none":
            raise UserError("fusion adds tokens to global vectors: remove local_dim, or set global_fusion to none")
        if not 0.0 <= local_weight <= 1.0:
            raise UserError(f"local_weight is {local_weight}; give a number from 0 (only global) to 1 (only local)")
        if global_fusion not in get_args(GlobalFusion):
            raise UserError(f"global_fusion is {global_fusion!r}; choose from {', '.join(get_args(GlobalFusion))}")
        if text_gate and global_fusion == "none":
            raise UserError("text_gate needs a context: set it to false, or global_fusion to pairwise or independent")
        self.embed_dim = embed_dim
        self.local_weight = local_weight
        self.normalize_words = normalize_words
        self.whole_texts = whole_texts
        self.global_fusion = global_fusion
        self.memory_budget = memory_budget
        factor = num_heads if normalize_words else 1
        self.attention = AttentionSettings(num_heads, factor * image_to_text_scale, factor * text_to_image_scale)
        self.local = CrossAttention() if local is None else local
        self.local.check_width(self.local_dim)
        if global_fusion != "none":
            self.image_fusion = ContextFusion(embed_dim, gated=True)
            self.text_fusion = ContextFusion(embed_dim, gated=text_gate)

    def levels(self) -> dict[str, tuple[float, Callable[[Features, Features], Tensor]]]:
        """The levels whose weighted sum is the fused score.

        Returns:
            Weight and score function of each level with a weight above 0: `local`, and `global` if fusion is pairwise
            or else `independent`.
        """
        of_global = "global" if self.global_fusion == "pairwise" else "independent"
        shares = {"local": (self.local_weight, 1.0), of_global: (1 - self.local_weight, 0.0)}
        return {
            name: (weight, partial(self._score, local_weight=local))
            for name, (weight, local) in shares.items()
            if weight > 0
        }

    @property
    def uses_tokens(self) -> bool:
        """Whether scores need local tokens; if not, only `Features.pooled` is read."""
        return self.local_weight > 0 or self.global_fusion != "none"

    @property
    def uses_words(self) -> bool:
        """Whether scores read the words of a text, each by itself."""
        return self.uses_tokens and not self.whole_texts

    @property
    def uses_text_pooled(self) -> bool:
        """Whether scores read the text's own global vector, and not only its context."""
        return self.global_fusion == "none" or self.text_fusion.gate is not None

    def forward(self, images: Features, texts: Features) -> Float[Tensor, "N M"]:
        """Fused scores; entry (i, j) depends only on image i and text j.

        Args:
            images: Projected features of N images, with L2-normalised tokens.
            texts: Projected features of M texts.

        Returns:
            Scores in [-1, 1], (N, M).
        """
        return self._score(images, texts, self.local_weight)

    def prepare_images(self, images: Features) -> Features:
        """Images for `compare`.

        Unless fusion is pairwise, embeddings replace the pooled vectors. Parts that no level reads become empty: tokens
        without attention, pooled vectors without a global level.
        """
        return self._without_unread(images, self.image_embeds, self.local_weight)

    def prepare_texts(self, texts: Features) -> Features:
        """Texts for `compare`; see `prepare_images`."""
        return self._without_unread(texts, self.text_embeds, self.local_weight)

    def compare(self, images: Features, texts: Features) -> Float[Tensor, "N M"]:
        """Fused scores of prepared items.

        With gradients, memory grows with N + M and N * M, not with the size of the attention between all tokens.

        Args:
            images: From `prepare_images`.
            texts: From `prepare_texts`.

        Returns:
            Scores in [-1, 1], (N, M).
        """
        return self._compare(images, texts, self.local_weight)

    def ready_images(self, images: Features) -> Comparable:
        """Prepared images for `compare_ready`; needs as much memory as the tokens."""
        return self._ready(images, self._region_set, self.local_weight)

    def ready_texts(self, texts: Features) -> Comparable:
        """Prepared texts for `compare_ready`."""
        return self._ready(texts, self._word_set, self.local_weight)

    def compare_ready(self, images: Comparable, texts: Comparable) -> Float[Tensor, "N M"]:
        """As `compare`, without repeating the work of `ready_images` and `ready_texts`.

        Args:
            images: From `ready_images`.
            texts: From `ready_texts`.
        """
        return self._compare_ready(images, texts, self.local_weight)

    def image_embeds(self, images: Features) -> Float[Tensor, "N D"]:
        """L2-normalised global vectors of images, independent of any text, (N, D).

        With fusion, also pairwise, the context comes from self-attention of the image's regions.
        """
        with torch.autocast(images.pooled.device.type, enabled=False):
            if self.global_fusion == "none":
                return _unit_pooled(images)
            regions = self._region_set(images.tokens, images.mask)
            return self.image_fusion.with_itself(images.pooled, regions, self.attention.text_to_image_scale)

    def text_embeds(self, texts: Features) -> Float[Tensor, "M D"]:
        """L2-normalised global vectors of texts, independent of any image, (M, D).

        With fusion, also pairwise, the context comes from self-attention of the text's words.
        """
        with torch.autocast(texts.pooled.device.type, enabled=False):
            if self.global_fusion == "none":
                return _unit_pooled(texts)
            words = self._word_set(texts.tokens, texts.mask)
            return self.text_fusion.with_itself(texts.pooled, words, self.attention.image_to_text_scale)

    def _score(self, images: Features, texts: Features, local_weight: float) -> Tensor:
        """`forward` with another weight of the local level."""
        images = self._without_unread(images, self.image_embeds, local_weight)
        return self._compare(images, self._without_unread(texts, self.text_embeds, local_weight), local_weight)

    def _compare(self, images: Features, texts: Features, local_weight: float) -> Tensor:
        ready = self._ready(images, self._region_set, local_weight), self._ready(texts, self._word_set, local_weight)
        return self._compare_ready(*ready, local_weight)

    def _compare_ready(self, images: Comparable, texts: Comparable, local_weight: float) -> Tensor:
        image_vectors, text_vectors = images.features.pooled, texts.features.pooled
        with torch.autocast(image_vectors.device.type, enabled=False):
            levels = []
            if self._attends(local_weight):
                levels.append(self._attention_score(images, texts, local_weight))
            if local_weight < 1 and self.global_fusion != "pairwise":
                dtype = scoring_dtype(image_vectors, text_vectors)
                product = image_vectors.to(dtype) @ text_vectors.to(dtype).T
                levels.append((1 - local_weight) * product)
            return torch.stack(levels).sum(0) if len(levels) > 1 else levels[0]

    def _region_set(self, tokens: Tensor, mask: Tensor) -> TokenSet:
        return token_set(tokens, mask, self.attention.num_heads)

    def _word_set(self, tokens: Tensor, mask: Tensor) -> TokenSet:
        return token_set(tokens, mask, self.attention.num_heads, normalize=self.normalize_words)

    def _attends(self, local_weight: float) -> bool:
        """Whether scores need attention between images and texts."""
        return local_weight > 0 or self.global_fusion == "pairwise"

    def _without_unread(self, items: Features, embeds: Callable[[Features], Tensor], local_weight: float) -> Features:
        if local_weight == 1:
            return Features(items.pooled[:, :0], items.tokens, items.mask)
        if self.global_fusion == "pairwise":
            return items
        longest = items.mask.shape[1] if self._attends(local_weight) else 0
        return Features(embeds(items), items.tokens[:, :longest], items.mask[:, :longest])

    @never_compiled  # shapes depend on the lengths of items
    def _ready(
        self, items: Features, token_set_of: Callable[[Tensor, Tensor], TokenSet], local_weight: float
    ) -> Comparable:
        if not self._attends(local_weight):
            return Comparable(items, None, None)
        with torch.autocast(items.pooled.device.type, enabled=False):
            order = LengthOrder(items.mask)
            return Comparable(items, order, token_set_of(order.sort(items.tokens), order.sort(items.mask)))

    @never_compiled  # sizes of tiles depend on lengths, and the backward pass is custom
    def _attention_score(self, images: Comparable, texts: Comparable, local_weight: float) -> Tensor:
        """The levels that need attention between images and texts: local, and global if fusion is pairwise."""
        rows, columns, regions, words = images.order, texts.order, images.tokens, texts.tokens
        assert rows is not None
        assert columns is not None
        assert regions is not None
        assert words is not None
        budget = half_of_free_memory(words.bias.device) if self.memory_budget is None else self.memory_budget
        fused_images, fused_texts, fused_elements = None, None, 0
        if local_weight < 1 and self.global_fusion == "pairwise":
            image, text = images.features, texts.features
            dtype = scoring_dtype(image.pooled, image.tokens, text.pooled, text.tokens)
            image_vectors, text_vectors = rows.sort(image.pooled).to(dtype), columns.sort(text.pooled).to(dtype)
            fused_images = self.image_fusion.prepare(image_vectors, regions, len(text_vectors), budget // 4)
            fused_texts = self.text_fusion.prepare(text_vectors, words, len(image_vectors), budget // 4)
            fused_elements = 2 * self.embed_dim
        height, width = tile_shape(regions, words, budget // 2, pair_elements=fused_elements)
        scores = score_in_tiles(
            _parts(regions, fused_images, height),
            _parts(words, fused_texts, width),
            partial(self._score_tile, local_weight=local_weight),
        )
        return columns.unsort(rows.unsort(scores, 0), 1)

    def _score_tile(self, images: _Part, texts: _Part, local_weight: float) -> Tensor:
        (regions, image), (words, text) = images, texts
        if image is None or text is None:
            return local_weight * self.local(regions, words, self.attention)
        local, over_words, over_regions = self.local.with_shares(regions, words, self.attention)
        image_vectors = self.image_fusion(image, regions, over_regions.shares)
        text_vectors = self.text_fusion(text, words, over_words.shares)
        return local_weight * local + (1 - local_weight) * _cosine(image_vectors, text_vectors.transpose(0, 1))


def _parts(tokens: TokenSet, items: Fusable | None, size: int) -> list[_Part]:
    parts = tokens.split(size)
    return list(zip(parts, repeat(None) if items is None else items.split(parts), strict=False))


def _unit_pooled(items: Features) -> Tensor:
    return unit_vectors(items.pooled.to(scoring_dtype(items.pooled)))


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    lengths = inverse_norm(first.square().sum(-1)) * inverse_norm(second.square().sum(-1))
    return (first * second).sum(-1) * lengths
