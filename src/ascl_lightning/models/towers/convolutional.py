"""A small convolutional image tower, trained from scratch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ascl_lightning.data.batch import Features, PixelSpec
from ascl_lightning.models.towers.image import PixelEncoder, grid_features
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.runtime.number_types import PositiveInt


class ConvImageEncoder(PixelEncoder):
    """A small convolutional network for small pictures, trained from scratch.

    Four convolutions with stride 2 give a grid of S / 16 by S / 16 tokens, with learned position embeddings. The global
    vector is a linear map of all tokens concatenated, because a mean would lose their positions.

    Args:
        image_size: Height and width S of the pictures, a multiple of 16.
        width: Channels of the first convolution; the second has twice as many.
        token_dim: Channels of the last two convolutions; width of the tokens and of the global vector.
        tuning: How the tower is trained.

    Raises:
        ValueError: If `image_size` is not a multiple of 16.
    """

    def __init__(
        self,
        image_size: PositiveInt = 64,
        width: PositiveInt = 48,
        token_dim: PositiveInt = 128,
        tuning: Tuning = Tuning(),
    ) -> None:
        if image_size % 16:
            raise ValueError(f"image_size {image_size} is not a multiple of 16")
        half = (0.5, 0.5, 0.5)
        super().__init__(PixelSpec(image_size, half, half, crop="squash"), tuning)
        self.pooled_dim = self.token_dim = token_dim
        channels = (3, width, 2 * width, token_dim, token_dim)
        # channels last: a third less time on a CPU
        self.convolutions = nn.Sequential(*map(_convolution, channels[:-1], channels[1:])).to(
            memory_format=torch.channels_last
        )
        num_tokens = (image_size // 16) ** 2
        self.positions = nn.Parameter(torch.empty(num_tokens, token_dim))
        nn.init.normal_(self.positions, std=0.02)
        self.norm = nn.LayerNorm(token_dim)
        self.pool = nn.Linear(num_tokens * token_dim, token_dim)

    def _encode_pixels(self, pixels: Float[Tensor, "N 3 S S"]) -> Features:
        grid = self.convolutions(pixels.contiguous(memory_format=torch.channels_last))
        tokens = self.norm(grid.flatten(2).mT + self.positions)
        return grid_features(self.pool(tokens.flatten(1)), tokens)


def _convolution(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.GELU(),
    )
