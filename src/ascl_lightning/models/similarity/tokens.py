"""Local tokens of many items, in the layout for attention between all of them."""

from dataclasses import dataclass
from itertools import repeat

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

SMALLEST_SQUARED_NORM = 1e-12
"""A vector shorter than 1e-6 is treated as zero: its cosines and gradients are 0."""


@dataclass(frozen=True)
class TokenSet:
    """Local tokens of B items, as queries or as the context of attention."""

    heads: Float[Tensor, "H B T W"]
    """The tokens cut into H slices of width W = D / H, zero at padding."""
    gram: Float[Tensor, "H B T T"] | None
    """Dot products of an item's tokens with each other, without gradient; None if there are more than 2 W tokens, when
    products with the tokens themselves are cheaper."""
    bias: Float[Tensor, "B T"]
    """Added to the logits over these tokens: 0, or -inf at padding."""
    share: Float[Tensor, "B T"]
    """Weight of each token in the mean over its item: 1 / number of real tokens; 0 at padding."""
    weight: Float[Tensor, "B T"]
    """`share` / norm of the token, which turns dot products into a mean of cosines; 0 for a zero vector."""
    lengths: tuple[int, ...]
    """Position of each item's last real token, plus 1; at least 1. Empty in an exported graph, which has no lengths."""

    @property
    def inverse_norms(self) -> Float[Tensor, "B T"]:
        """1 / norm of each token; 0 for a zero vector and at padding."""
        return self.weight * (self.share > 0).sum(-1, keepdim=True)

    def split(self, size: int) -> list["TokenSet"]:
        """Parts of at most `size` consecutive items, each without trailing padding."""
        by_item = (field.split(size) for field in (self.bias, self.share, self.weight))
        grams = repeat(None) if self.gram is None else self.gram.split(size, 1)
        fields = zip(self.heads.split(size, 1), *by_item, grams, strict=False)
        parts = []
        for number, (heads, bias, share, weight, gram) in enumerate(fields):
            lengths = self.lengths[number * size : (number + 1) * size]
            longest = max(lengths, default=1)
            parts.append(
                TokenSet(
                    heads[:, :, :longest],
                    None if gram is None else gram[:, :, :longest, :longest],
                    bias[:, :longest],
                    share[:, :longest],
                    weight[:, :longest],
                    lengths,
                )
            )
        return parts


def token_set(
    tokens: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], num_heads: int, *, normalize: bool = False
) -> TokenSet:
    """Splits tokens into heads and computes the fields of `TokenSet`.

    Args:
        tokens: Local tokens, (B, T, D), of any floating dtype.
        mask: True for real tokens, (B, T). Padding may have any value, including NaN.
        num_heads: Attention heads, which split D.
        normalize: L2-normalise the tokens first.
    """
    # a graph that is exported can branch on no value, and leaves out what only comparisons read
    exporting = torch.compiler.is_exporting()
    if exporting or not mask.all():
        tokens = torch.where(mask[..., None], tokens, 0.0)
    exact = tokens.to(scoring_dtype(tokens))
    if normalize:
        tokens = exact = unit_vectors(exact)
    # an item without tokens attends over its padding, which is zero; a row of -inf would give NaN
    ignored = ~mask & mask.any(-1, keepdim=True)
    share = mask / mask.sum(-1, keepdim=True).clamp_min(1).to(exact.dtype)
    heads = tokens.unflatten(-1, (num_heads, -1)).permute(2, 0, 1, 3).contiguous()
    return TokenSet(
        heads=heads,
        gram=None if exporting else _gram(heads.detach().to(exact.dtype)),
        bias=exact.new_zeros(mask.shape).masked_fill(ignored, -torch.inf),
        share=share,
        weight=share * inverse_norm(torch.linalg.vector_norm(exact, dim=-1).square()),
        lengths=() if exporting else tuple(used_positions(mask).tolist()),
    )


class LengthOrder:
    """Sorts items by length, so that items of one tile need little padding.

    Args:
        mask: True for real tokens, (B, T).
    """

    def __init__(self, mask: Bool[Tensor, "B T"]) -> None:
        used = used_positions(mask)
        self._in_order = bool((used[1:] >= used[:-1]).all())
        self._order = used.argsort(stable=True)
        self._place = self._order.argsort()

    def sort(self, items: Shaped[Tensor, " B *rest"]) -> Shaped[Tensor, " B *rest"]:
        """Items sorted by length."""
        return items if self._in_order else items.index_select(0, self._order)

    def unsort(self, results: Shaped[Tensor, "*shape"], dim: int) -> Shaped[Tensor, "*shape"]:
        """Results in the original order of items, along any dimension."""
        return results if self._in_order else results.index_select(dim, self._place)


def used_positions(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Position of each item's last real token, plus 1; at least 1, (B,)."""
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (positions * mask).amax(-1).clamp_min(1)


def scoring_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype for scores of these tensors: their widest, and at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def inverse_norm(squared_norm: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 / norm from the squared norm; 0, with gradient 0, for a zero vector.

    Both `clamp_min` and `where` are needed: without the clamp the gradient at zero is NaN, and with the clamp alone
    gradients reach 1e6.
    """
    clamped = squared_norm.clamp_min(SMALLEST_SQUARED_NORM)
    return torch.where(squared_norm > SMALLEST_SQUARED_NORM, clamped.rsqrt(), 0.0)


def unit_vectors(vectors: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
    """L2-normalised vectors; zero stays zero."""
    return vectors * inverse_norm(vectors.square().sum(-1, keepdim=True))


def _gram(heads: Tensor) -> Tensor | None:
    num_tokens, width = heads.shape[2:]
    return heads @ heads.mT if num_tokens <= 2 * width else None
