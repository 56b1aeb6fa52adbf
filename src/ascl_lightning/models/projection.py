"""Maps of a tower's vectors to the width that images and texts share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.runtime.number_types import UnitInterval


@dataclass(frozen=True)
class ProjectionSettings:
    """What happens to a tower's vectors before their linear map.

    Args:
        layer_norm: Give each vector mean 0 and variance 1 (layer normalisation without parameters). Vectors of towers
            that end in an activation function have dimensions of very different size. Where a tower joins feature maps
            of inner layers, which differ in size too, the vector of each layer is normalised alone.
        dropout: Share of dimensions that are set to zero in training. Large values keep projections of frozen towers
            from overfitting.
    """

    layer_norm: bool = False
    dropout: UnitInterval = 0.0


class Projection(nn.Module):
    """Linear maps of a tower's global vector and tokens to the common width D (docs/method.md#encoders).

    Args:
        pooled_dim: P, the width of the global vector.
        token_dim: T, the width of tokens.
        embed_dim: D.
        settings: What happens before the linear maps.
        joined_widths: Widths of the vectors of inner layers at the end of the global vector and of each token.
        local_dim: Width of projected tokens; None: D.
    """

    def __init__(
        self,
        pooled_dim: int,
        token_dim: int,
        embed_dim: int,
        settings: ProjectionSettings = ProjectionSettings(),
        joined_widths: Sequence[int] = (),
        local_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.pooled = nn.Linear(pooled_dim, embed_dim)
        self.tokens = nn.Linear(token_dim, local_dim or embed_dim)
        self.settings = settings
        self._joined_widths = tuple(joined_widths)

    def forward(self, features: Features) -> Features:
        """(B, P) and (B, K, T) to (B, D) and (B, K, local_dim)."""
        pooled, tokens = self.pooled(self._ready(features.pooled)), self.tokens(self._ready(features.tokens))
        return Features(pooled, tokens, features.mask)

    def _ready(self, vectors: Float[Tensor, "... T"]) -> Float[Tensor, "... T"]:
        if self.settings.layer_norm:
            widths = vectors.shape[-1] - sum(self._joined_widths), *self._joined_widths
            vectors = torch.cat([F.layer_norm(part, part.shape[-1:]) for part in vectors.split(widths, dim=-1)], dim=-1)
        return F.dropout(vectors, self.settings.dropout, self.training)
