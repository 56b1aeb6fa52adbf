"""Local level from the best match of each token: one matrix product and maxima, without attention."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.models.similarity.aggregation import Aggregation
from ascl_lightning.models.similarity.attention import AttentionSettings
from ascl_lightning.models.similarity.local import LocalLevel
from ascl_lightning.models.similarity.tokens import TokenSet, scoring_dtype, unit_vectors


class LateInteraction(LocalLevel):
    """Cosine of each token with the most similar token of the other item, aggregated over the item's tokens.

    Sources, by arguments:

    - FILIP (Yao et al., ICLR 2022, arXiv 2111.07783, section 3.2): both directions, means. FILIP contrasts each
      direction with its own score; here both directions use the mean of the two.
    - ColBERT (Khattab and Zaharia, SIGIR 2020, arXiv 2004.12832): `text_to_image`. ColBERT sums over the query's
      tokens; the mean ranks the images of a text in the same way.
    - CHAN (Pan et al., CVPR 2023): `text_to_image` with `over_words: LogSumExp(scale=10)`, the hard assignment of each
      word to one region. CHAN sums inside the logarithm, see `LogSumExp`.

    Heads and scales of attention are not used. The gradient reaches only the best match of each token.

    Args:
        direction: `"image_to_text"`: the aggregate over regions; `"text_to_image"`: the aggregate over words; `"both"`:
            the mean of the two.
        over_regions: Aggregates the cosines of an image's regions; None: their mean.
        over_words: Aggregates the cosines of a text's words; None: their mean.
    """

    def forward(self, regions: TokenSet, words: TokenSet, attention: AttentionSettings) -> Float[Tensor, "N M"]:
        """See `LocalLevel`."""
        dtype = scoring_dtype(regions.bias, words.bias)
        images, texts = _unit_tokens(regions, dtype).flatten(0, 1), _unit_tokens(words, dtype)
        if self.direction == "text_to_image":
            return self._of_real_words(images, regions, texts, words)
        # one product of two matrices: a batch of small ones would be slower
        products = (images @ texts.flatten(0, 1).T).view(*regions.bias.shape, *words.bias.shape)
        of_regions = _largest(products + words.bias, 3).permute(2, 0, 1)
        scores = _aggregated(of_regions, self.over_regions, regions).T
        if self.direction == "image_to_text":
            return scores
        of_words = _largest(products + regions.bias[..., None, None], 1)
        return (scores + _aggregated(of_words, self.over_words, words)) / 2

    def _of_real_words(
        self, images: Float[Tensor, "R D"], regions: TokenSet, texts: Float[Tensor, "M L D"], words: TokenSet
    ) -> Float[Tensor, "N M"]:
        """Aggregated best matches of words; padding, which in many batches is half of the words, is not multiplied."""
        is_real = words.share > 0
        products = (images @ texts[is_real].T).view(*regions.bias.shape, -1)
        best = _largest(products + regions.bias[..., None], 1)
        of_words = best.new_zeros(len(best), *is_real.shape)
        of_words[:, is_real] = best
        return _aggregated(of_words, self.over_words, words)

    def support(
        self, queries: TokenSet, context: TokenSet, scale: float
    ) -> tuple[Float[Tensor, "P Q T"], Float[Tensor, "P Q"]]:
        """See `LocalLevel`; the whole weight is on the best match."""
        dtype = scoring_dtype(queries.bias, context.bias)
        cosines = _unit_tokens(queries, dtype) @ _unit_tokens(context, dtype).mT + context.bias[:, None]
        best, places = cosines.max(-1)
        is_real = (queries.share > 0)[..., None] & (context.share > 0)[:, None]
        return F.one_hot(places, cosines.shape[-1]) * is_real.to(dtype), best


def _unit_tokens(items: TokenSet, dtype: torch.dtype) -> Float[Tensor, "B T D"]:
    """L2-normalised tokens with their heads joined."""
    return unit_vectors(items.heads.to(dtype).permute(1, 2, 0, 3).flatten(2))


def _largest(values: Tensor, dim: int) -> Tensor:
    """Maximum along a dimension."""
    # with gradients, `max` stores positions only and `amax` the values; without, `amax` is faster
    return values.max(dim).values if values.requires_grad else values.amax(dim)


def _aggregated(
    cosines: Float[Tensor, "B A T"], aggregation: Aggregation | None, tokens: TokenSet
) -> Float[Tensor, "B A"]:
    if aggregation is None:
        return (cosines * tokens.share).sum(-1)
    scores: Tensor = aggregation(cosines, tokens)
    return scores
