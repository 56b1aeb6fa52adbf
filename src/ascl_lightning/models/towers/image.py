"""What image towers share (docs/method.md#encoders)."""

from abc import abstractmethod
from math import isqrt

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.data.batch import Features, ImageSpec, PixelSpec
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.models.towers.tuning import Tuning


class ImageEncoder(Encoder):
    """An image tower. Its `spec` says whether it takes pictures or extracted regions."""

    spec: ImageSpec


class PixelEncoder(ImageEncoder):
    """An image tower for uint8 pictures, (N, 3, S, S), which it normalises itself, on its device.

    Args:
        spec: The pictures that the tower takes.
        tuning: How the tower is trained.
    """

    spec: PixelSpec
    mean: Tensor
    std: Tensor

    def __init__(self, spec: PixelSpec, tuning: Tuning = Tuning()) -> None:
        super().__init__(tuning)
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)

    def _encode(self, pixels: UInt8[Tensor, "N 3 S S"]) -> Features:
        return self._encode_pixels(self._normalised(pixels))

    def _normalised(self, pixels: UInt8[Tensor, "N 3 S S"]) -> Float[Tensor, "N 3 S S"]:
        normalised: Tensor = (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std
        return normalised

    @abstractmethod
    def _encode_pixels(self, pixels: Float[Tensor, "N 3 S S"]) -> Features:
        """`_encode` for normalised pictures."""


def grid_features(pooled: Float[Tensor, "N P"], tokens: Float[Tensor, "N K T"]) -> Features:
    """Features of pictures without padding tokens."""
    return Features(pooled, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


def check_token_grid(tower: str, token_grid: int, side: int) -> None:
    """Checks that a grid of `side` x `side` tokens can be pooled to `token_grid` rows and columns.

    Args:
        tower: The tower, as messages name it.
        token_grid: Rows and columns after pooling.
        side: Rows and columns before pooling.

    Raises:
        UserError: If `token_grid` is below 1 or above `side`.
    """
    if not 1 <= token_grid <= side:
        raise UserError(f"{tower} gives a grid of {side} x {side} tokens: token_grid must be 1 to {side}")


def pool_grid(tokens: Float[Tensor, "N K T"], token_grid: int) -> Float[Tensor, "N P T"]:
    """Average-pools a square grid of tokens, ordered row by row, to `token_grid` rows and columns."""
    side = isqrt(tokens.shape[1])
    grid = tokens.mT.unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, token_grid).flatten(2).mT
