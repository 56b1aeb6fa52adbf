"""Local levels: the similarity of every image with every text from their local tokens.

Sources: AsCL (arXiv 2405.10029), section III-C, local level; SCAN (Lee et al., ECCV 2018, arXiv 1803.08024).
`attention` computes the exact scores without attended vectors, `tiles` computes the matrix in bounded memory.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from ascl_lightning.errors import UserError
from ascl_lightning.models.similarity.aggregation import Aggregation
from ascl_lightning.models.similarity.attention import (
    Attended,
    AttentionSettings,
    attend_both_ways,
    attend_over_regions,
    attend_over_words,
    mean_similarity,
)
from ascl_lightning.models.similarity.tiles import half_of_free_memory, score_in_tiles, tile_shape
from ascl_lightning.models.similarity.tokens import LengthOrder, TokenSet, inverse_norm, token_set
from ascl_lightning.runtime.compilation import never_compiled

Direction = Literal["both", "image_to_text", "text_to_image"]
DIRECTIONS = get_args(Direction)


class LocalLevel(nn.Module, ABC):
    """The local level of `FusedSimilarity`: scores in [-1, 1] from regions and words.

    Each region gets a cosine with what it finds among the words, and each word with what it finds among the regions;
    the cosines of an item are aggregated. The score of a pair depends only on its two items.

    Args:
        direction: `"image_to_text"`: the aggregate over regions; `"text_to_image"`: the aggregate over words; `"both"`:
            the mean of the two.
        over_regions: Aggregates the cosines of an image's regions; None: their mean.
        over_words: Aggregates the cosines of a text's words; None: their mean.

    Raises:
        UserError: If `direction` is unknown, or an aggregation has no effect in that direction.
    """

    def __init__(
        self,
        direction: Direction = "both",
        over_regions: Aggregation | None = None,
        over_words: Aggregation | None = None,
    ) -> None:
        super().__init__()
        if direction not in DIRECTIONS:
            raise UserError(f"direction is {direction!r}; choose from {', '.join(DIRECTIONS)}")
        unread = {"image_to_text": ("over_words", over_words), "text_to_image": ("over_regions", over_regions)}
        name, aggregation = unread.get(direction, ("", None))
        if aggregation is not None:
            raise UserError(f"{name} has no effect with direction {direction}: remove it, or set direction to both")
        self.direction = direction
        self.over_regions = over_regions
        self.over_words = over_words

    def check_width(self, embed_dim: int) -> None:
        """Raises a `UserError` if tokens of width `embed_dim` do not fit the parameters."""
        for aggregation in (self.over_regions, self.over_words):
            if aggregation is not None:
                aggregation.check_width(embed_dim)

    @abstractmethod
    def forward(self, regions: TokenSet, words: TokenSet, attention: AttentionSettings) -> Float[Tensor, "N M"]:
        """Scores N images with M texts, with gradients; memory grows with N * M * K * L.

        Args:
            regions: Tokens of the images.
            words: Tokens of the texts.
            attention: Heads and scales of attention.
        """

    def with_shares(
        self, regions: TokenSet, words: TokenSet, attention: AttentionSettings
    ) -> tuple[Float[Tensor, "N M"], Attended, Attended]:
        """As `forward`; also attention over words and over regions with their `shares`, for pairwise fusion."""
        scores = self(regions, words, attention)
        return scores, *attend_both_ways(regions, words, attention, shares=True)

    @abstractmethod
    def support(
        self, queries: TokenSet, context: TokenSet, scale: float
    ) -> tuple[Float[Tensor, "P Q T"], Float[Tensor, "P Q"]]:
        """What each query of P pairs finds in the context of the same pair, without gradient.

        Args:
            queries: Tokens of one item of each pair.
            context: Tokens of the other.
            scale: Factor of the logits of attention.

        Returns:
            Weights of the context's tokens, which sum to 1 for a real query, and the query's cosine with what it
            finds. Padding has 0 in both.
        """


class CrossAttention(LocalLevel):
    """Cosine of each token with its context from attention over the other item (AsCL; SCAN).

    Without aggregations this is AsCL's local level. With `direction` `"image_to_text"` or `"text_to_image"`, and
    `LogSumExp` or the mean, it is that of SCAN (Lee et al. 2018), which also normalises logits over the queries; here
    the attention of a token does not depend on the other tokens of its item.

    Args:
        direction: `"image_to_text"`: the aggregate over regions; `"text_to_image"`: the aggregate over words; `"both"`:
            the mean of the two.
        over_regions: Aggregates the cosines of an image's regions; None: their mean.
        over_words: Aggregates the cosines of a text's words; None: their mean.
    """

    def forward(self, regions: TokenSet, words: TokenSet, attention: AttentionSettings) -> Float[Tensor, "N M"]:
        """See `LocalLevel`."""
        if self.direction == "image_to_text":
            wanted = self.over_regions is not None
            return self._of_regions(attend_over_words(regions, words, attention, cosines=wanted), regions)
        if self.direction == "text_to_image":
            wanted = self.over_words is not None
            return self._of_words(attend_over_regions(regions, words, attention, cosines=wanted), words)
        return self._both(regions, words, *attend_both_ways(regions, words, attention, cosines=self._aggregates))

    def with_shares(
        self, regions: TokenSet, words: TokenSet, attention: AttentionSettings
    ) -> tuple[Float[Tensor, "N M"], Attended, Attended]:
        """See `LocalLevel`; one attention serves the scores and the shares."""
        attended = attend_both_ways(regions, words, attention, shares=True, cosines=self._aggregates)
        if self.direction == "image_to_text":
            return self._of_regions(attended[0], regions), *attended
        if self.direction == "text_to_image":
            return self._of_words(attended[1], words), *attended
        return self._both(regions, words, *attended), *attended

    def support(
        self, queries: TokenSet, context: TokenSet, scale: float
    ) -> tuple[Float[Tensor, "P Q T"], Float[Tensor, "P Q"]]:
        """See `LocalLevel`; the weights are the attention averaged over heads."""
        dtype = torch.promote_types(queries.bias.dtype, context.bias.dtype)
        query, keys = queries.heads.to(dtype), context.heads.to(dtype)
        weights = (scale * query @ keys.mT + context.bias[:, None]).softmax(-1)
        attended = weights @ keys
        lengths = inverse_norm(query.square().sum((0, -1))) * inverse_norm(attended.square().sum((0, -1)))
        is_real = (queries.share > 0)[..., None] & (context.share > 0)[:, None]
        return weights.mean(0) * is_real, (query * attended).sum((0, -1)) * lengths

    @property
    def _aggregates(self) -> bool:
        return self.over_regions is not None or self.over_words is not None

    def _both(self, regions: TokenSet, words: TokenSet, over_words: Attended, over_regions: Attended) -> Tensor:
        if not self._aggregates:
            return mean_similarity(over_words, over_regions)
        return (self._of_regions(over_words, regions) + self._of_words(over_regions, words)) / 2

    def _of_regions(self, over_words: Attended, regions: TokenSet) -> Tensor:
        if self.over_regions is None:
            return over_words.similarity.T
        scores: Tensor = self.over_regions(over_words.cosines, regions)
        return scores.T

    def _of_words(self, over_regions: Attended, words: TokenSet) -> Tensor:
        if self.over_words is None:
            return over_regions.similarity
        scores: Tensor = self.over_words(over_regions.cosines, words)
        return scores


@never_compiled  # sizes of tiles depend on lengths
def local_similarity(
    image_tokens: Float[Tensor, "N K D"],
    text_tokens: Float[Tensor, "M L D"],
    text_mask: Bool[Tensor, "M L"] | Integer[Tensor, "M L"],
    *,
    image_mask: Bool[Tensor, "N K"] | Integer[Tensor, "N K"] | None = None,
    num_heads: int = 8,
    image_to_text_scale: float = 4.0,
    text_to_image_scale: float = 9.0,
    direction: Direction = "both",
    memory_budget: int | None = None,
) -> Float[Tensor, "N M"]:
    """Local similarity of every image with every text (AsCL, section III-C; S_local).

    Tokens are not normalised. Scores are computed in float32, or float64 if a token tensor is, also under autocast. A
    zero vector has cosine 0; a text without words, or an image without regions, scores 0. With gradients, memory grows
    with N + M and N * M, not with N * M * K * L.

    Args:
        image_tokens: Region vectors, (N, K, D).
        text_tokens: Word vectors, (M, L, D).
        text_mask: True (or 1) for real words, (M, L); other entries have no effect.
        image_mask: True (or 1) for real regions, (N, K); None if all are.
        num_heads: Attention heads, which split D.
        image_to_text_scale: Factor of the logits when regions attend over words.
        text_to_image_scale: Factor of the logits when words attend over regions.
        direction: `"image_to_text"`: mean over regions of the cosine with their attended words; `"text_to_image"`:
            mean over words of the cosine with their attended regions; `"both"`: the mean of the two.
        memory_budget: Bytes for scoring, in addition to tokens and scores; None: half of the free memory.

    Returns:
        Similarities in [-1, 1], (N, M), in float32, or in float64 if a token tensor is.

    Raises:
        ValueError: If D is not divisible by `num_heads`, or `direction` is unknown.

    Example:
        >>> regions = torch.eye(2)[:, None]  # two images of one region each
        >>> words = torch.tensor([[[3.0, 0.0], [9.0, 9.0]]])  # a text of one word and padding
        >>> local_similarity(regions, words, torch.tensor([[1, 0]]), num_heads=1).tolist()
        [[1.0], [0.0]]
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}, but must be one of {', '.join(DIRECTIONS)}")
    if num_heads < 1 or image_tokens.shape[-1] % num_heads:
        raise ValueError(f"{image_tokens.shape[-1]} dimensions are not divisible by {num_heads} heads")
    attention = AttentionSettings(num_heads, image_to_text_scale, text_to_image_scale)
    if image_mask is None:
        image_mask = image_tokens.new_ones(image_tokens.shape[:2])
    image_mask, text_mask = image_mask.bool(), text_mask.bool()
    with torch.autocast(image_tokens.device.type, enabled=False):
        rows, columns = LengthOrder(image_mask), LengthOrder(text_mask)
        images = token_set(rows.sort(image_tokens), rows.sort(image_mask), num_heads)
        texts = token_set(columns.sort(text_tokens), columns.sort(text_mask), num_heads)
        budget = half_of_free_memory(images.bias.device) if memory_budget is None else memory_budget
        height, width = tile_shape(images, texts, budget)
        score = partial(CrossAttention(direction), attention=attention)
        return columns.unsort(rows.unsort(score_in_tiles(images.split(height), texts.split(width), score), 0), 1)
