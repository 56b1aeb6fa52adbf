"""How the cosines of an item's tokens become one score, in place of their mean."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ascl_lightning.errors import UserError
from ascl_lightning.models.similarity.tokens import TokenSet
from ascl_lightning.runtime.number_types import PositiveFloat, PositiveInt


class Aggregation(nn.Module, ABC):
    """Aggregates the cosines of each item's tokens.

    The result is 0 for an item without tokens, and within the range of the cosines otherwise. Padding has no effect.
    """

    def check_width(self, embed_dim: int) -> None:
        """Raises a `UserError` if tokens of width `embed_dim` do not fit the parameters."""

    @abstractmethod
    def forward(self, cosines: Float[Tensor, "B A T"], tokens: TokenSet) -> Float[Tensor, "B A"]:
        """Aggregates over the tokens of A items.

        Args:
            cosines: Cosine of each token with each of B other items; any finite value at padding.
            tokens: The tokens of the A items.
        """


class LogSumExp(Aggregation):
    """A smooth maximum, `log(mean(exp(scale * cosine))) / scale`.

    Sources: SCAN (Lee et al., ECCV 2018, arXiv 1803.08024) with scale 6; CHAN (Pan et al., CVPR 2023) with
    scale 10. Both sum instead of averaging, which adds `log(number of tokens) / scale` and so prefers long texts.

    Args:
        scale: Near 0, the result is the mean; with increasing scale it approaches the maximum.

    Raises:
        UserError: If `scale` is not positive.
    """

    def __init__(self, scale: PositiveFloat = 6.0) -> None:
        super().__init__()
        if not scale > 0:
            raise UserError(f"the scale of LogSumExp is {scale}; give a positive number")
        self.scale = scale

    def forward(self, cosines: Float[Tensor, "B A T"], tokens: TokenSet) -> Float[Tensor, "B A"]:
        """See `Aggregation`."""
        is_item = tokens.share.any(-1)
        # an item without tokens: a row of -inf would have NaN gradients
        bias = tokens.share.log().masked_fill(~is_item[:, None], 0.0)
        smooth = torch.logsumexp(self.scale * cosines + bias, -1) / self.scale
        return torch.where(is_item, smooth, 0.0)


class TopKMean(Aggregation):
    """Mean of the k highest cosines, or of all if there are fewer.

    Args:
        k: Number of tokens.

    Raises:
        UserError: If `k` is not positive.
    """

    def __init__(self, k: PositiveInt) -> None:
        super().__init__()
        if k < 1:
            raise UserError(f"k of TopKMean is {k}; give a positive number of tokens")
        self.k = k

    def forward(self, cosines: Float[Tensor, "B A T"], tokens: TokenSet) -> Float[Tensor, "B A"]:
        """See `Aggregation`."""
        is_real = tokens.share > 0
        k = min(self.k, cosines.shape[-1])
        highest = cosines.masked_fill(~is_real, -torch.inf).topk(k, -1, sorted=False).values
        counts = is_real.sum(-1).clamp(1, k)
        return highest.masked_fill(highest == -torch.inf, 0.0).sum(-1) / counts


class LearnedWeights(Aggregation):
    """Weighted mean with weights that are learned from the tokens: a softmax over a linear map of each.

    Training starts at the mean.

    Args:
        embed_dim: Width of tokens: that of the similarity, its `local_dim` if it has one.
    """

    def __init__(self, embed_dim: PositiveInt) -> None:
        super().__init__()
        # without bias, which a softmax ignores
        self.salience = nn.Linear(embed_dim, 1, bias=False)
        nn.init.zeros_(self.salience.weight)

    def check_width(self, embed_dim: int) -> None:
        """See `Aggregation`."""
        if self.salience.in_features != embed_dim:
            raise UserError(
                f"embed_dim of LearnedWeights is {self.salience.in_features}, but that of the similarity is "
                f"{embed_dim}; give both the same"
            )

    def forward(self, cosines: Float[Tensor, "B A T"], tokens: TokenSet) -> Float[Tensor, "B A"]:
        """See `Aggregation`."""
        heads, dtype = tokens.heads, tokens.bias.dtype
        by_head = self.salience.weight.to(dtype).view(len(heads), -1, 1)
        logits = (heads.to(dtype).flatten(1, 2) @ by_head).sum(0).view_as(tokens.bias)
        weights = torch.softmax(logits + tokens.bias, -1) * (tokens.share > 0)
        return (cosines * weights).sum(-1)
