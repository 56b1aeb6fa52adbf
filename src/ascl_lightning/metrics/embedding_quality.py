"""Alignment and uniformity of embeddings on the sphere (Wang and Isola, ICML 2020)."""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor


@torch.no_grad()
def alignment(
    image_embeds: Float[Tensor, "N D"], text_embeds: Float[Tensor, "M D"], text_image_ids: Integer[Tensor, " M"]
) -> float:
    """Mean squared distance between texts and their images: 0 if all coincide, 4 if all are opposite.

    Args:
        image_embeds: L2-normalised, (N, D).
        text_embeds: L2-normalised, (M, D).
        text_image_ids: Row of each text's image, (M,).

    Returns:
        Mean over texts; NaN without texts.

    Example:
        >>> alignment(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))  # (0 + 2) / 2
        1.0
    """
    difference = _at_least_float32(image_embeds)[text_image_ids.long()] - _at_least_float32(text_embeds)
    return difference.square().sum(dim=1).mean().item()


@torch.no_grad()
def uniformity(embeds: Float[Tensor, "N D"], *, block: int = 2048) -> float:
    """Logarithm of the mean of exp(-2 d^2) over all pairs of distinct rows; lower is more uniform, 0 if all coincide.

    Args:
        embeds: L2-normalised, (N, D).
        block: Rows and columns of the tiles in which distances are computed.

    Returns:
        A number in [-8, 0]; NaN with fewer than two rows.

    Example:
        >>> round(uniformity(torch.eye(3)), 4)  # every squared distance is 2
        -4.0
    """
    embeds = _at_least_float32(embeds)
    total = 0.0
    for start in range(0, len(embeds), block):
        rows = embeds[start : start + block]
        total += _potential(rows, rows).triu(diagonal=1).sum().item()
        for other in range(start + block, len(embeds), block):
            total += _potential(rows, embeds[other : other + block]).sum().item()
    num_pairs = math.comb(len(embeds), 2)
    return math.log(total / num_pairs) if num_pairs else math.nan


def _at_least_float32(embeds: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return embeds.to(torch.promote_types(embeds.dtype, torch.float32))


def _potential(rows: Float[Tensor, "R D"], columns: Float[Tensor, "C D"]) -> Float[Tensor, "R C"]:
    return torch.cdist(rows, columns).square_().mul_(-2).exp_()
