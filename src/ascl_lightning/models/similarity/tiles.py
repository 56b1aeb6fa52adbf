"""Score matrices in tiles: memory is bounded for any number of items."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ascl_lightning.models.similarity.tokens import TokenSet

ImagePart = TypeVar("ImagePart")
TextPart = TypeVar("TextPart")

TILE_ELEMENTS = {"cpu": 2**20}
"""Elements of a tile's largest array, for the best speed: on a CPU, what fits into its caches."""
LARGEST_TILE_ELEMENTS = 2**26
"""The same for other devices: enough for full utilisation."""
_ARRAYS = 10
"""Upper bound on arrays of the largest size in memory: in total, or per head with gradients."""


def tile_shape(images: TokenSet, texts: TokenSet, memory_budget: int, *, pair_elements: int = 0) -> tuple[int, int]:
    """Number of images and of texts per tile.

    Args:
        images: All images.
        texts: All texts.
        memory_budget: Maximum bytes of a tile.
        pair_elements: Elements per pair of the largest array other than those of attention.

    Returns:
        Height and width of tiles: about four times as high as wide if the matrix allows it, and of similar size.
    """
    num_heads, num_images, regions, _ = images.heads.shape
    num_texts, words = texts.bias.shape
    device = images.bias.device
    largest = max(regions * words, pair_elements // 2, 1)
    attention_arrays = _ARRAYS * (num_heads if torch.is_grad_enabled() else 1)
    pair_bytes = (attention_arrays * regions * words + _ARRAYS * pair_elements) * images.bias.element_size()
    preferred = TILE_ELEMENTS.get(device.type, LARGEST_TILE_ELEMENTS) // largest
    max_pairs = max(1, min(preferred, memory_budget // max(1, pair_bytes)))
    # texts are sorted by length: the few texts of a tile have similar lengths and so little padding
    width = max(1, min(num_texts, math.isqrt(max_pairs) // 2))
    height = max(1, min(num_images, max_pairs // width))
    width = max(1, min(num_texts, max_pairs // height))
    return _even(num_images, height), _even(num_texts, width)


def half_of_free_memory(device: torch.device) -> int:
    """Half of the bytes that can be allocated on a device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (int(torch.cuda.mem_get_info(device)[0]) + unused) // 2
    return int(psutil.virtual_memory().available) // 2


def score_in_tiles(
    images: Sequence[ImagePart], texts: Sequence[TextPart], score: Callable[[ImagePart, TextPart], Tensor]
) -> Float[Tensor, "N M"]:
    """The score matrix of all images with all texts, computed part by part.

    With gradients, only the scores of a tile are stored: `score` runs again in the backward pass.

    Args:
        images: Parts of the images, in order.
        texts: Parts of the texts, in order.
        score: Returns the scores of a part of the images with a part of the texts.
    """

    def kept_small(rows: ImagePart, columns: TextPart) -> Tensor:
        tile: Tensor = checkpoint(score, rows, columns, use_reentrant=False, preserve_rng_state=False)
        return tile

    score_tile = kept_small if torch.is_grad_enabled() and len(images) * len(texts) > 1 else score
    tiles = [[score_tile(rows, columns) for columns in texts] for rows in images]
    return torch.cat([torch.cat(row, 1) for row in tiles])


def _even(count: int, largest: int) -> int:
    return math.ceil(count / math.ceil(count / largest)) if count else 1
