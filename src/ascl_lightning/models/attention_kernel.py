"""Attention between all pairs in Triton: what `attention` computes in torch, with no array of N * M * K * L elements.

One program of the forward kernel takes one image and one text through all heads. On the way back, a program takes one
item, one head and one block of its width, and walks over all items of the other kind: every sum has one owner, so there
are no atomics, and results do not change from run to run. Recomputing the dot products for each block of the width is
what that costs. Images and texts are mirror images of each other: the backward kernel runs once for each side.

In the kernels, x are the tokens of the own item (in the forward kernel: regions), y those of the other. Attention
goes over x, with a softmax for each query y, and over y, with one for each query x.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ascl_lightning.models.tokens import TokenSet, inverse_norm

_LARGEST_BLOCK = 128
"""Tokens of an item, padded: two arrays of 128 x 128 float32 for each direction fill the registers of a program."""
_WIDTH_BLOCK = 32


def kernel_fits(images: TokenSet, texts: TokenSet) -> bool:
    """Whether the kernels can take these items: on a GPU, of one dtype that it multiplies, of not too many tokens."""
    tokens = images.heads, texts.heads
    runs = all(heads.is_cuda for heads in tokens) or os.environ.get("TRITON_INTERPRET") == "1"
    return (
        runs
        and images.heads.dtype == texts.heads.dtype
        and images.heads.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and all(heads.shape[1] > 0 and _block(heads.shape[2]) <= _LARGEST_BLOCK for heads in tokens)
    )


def attend_pairs(
    images: TokenSet, texts: TokenSet, over_words_scale: float, over_regions_scale: float
) -> tuple[
    tuple[Float[Tensor, "M N"], Float[Tensor, "M N HL"]],
    tuple[Float[Tensor, "N M"], Float[Tensor, "N M HK"]],
]:
    """Similarity and shares over words, and over regions, as `attention.Attended` has them, with gradients."""
    sums = _PairSums.apply(images.heads, texts.heads, images, texts, (over_regions_scale, over_words_scale))
    dot_regions, norm_regions, dot_words, norm_words, region_shares, word_shares = sums
    over_regions = (dot_regions * inverse_norm(norm_regions) * texts.weight).sum(-1)
    over_words = (dot_words * inverse_norm(norm_words) * images.weight[:, None]).sum(-1).T
    return (over_words, word_shares.flatten(2)), (over_regions, region_shares.flatten(2))


class _PairSums(torch.autograd.Function):
    """Sums over heads of q . q' and |q'|^2, over regions (N, M, L) and over words (N, M, K), then both shares."""

    @staticmethod
    def forward(
        ctx: Any, regions: Tensor, words: Tensor, images: TokenSet, texts: TokenSet, scales: tuple[float, float]
    ) -> tuple[Tensor, ...]:
        regions, words = regions.contiguous(), words.contiguous()
        num_heads, num_images, num_regions, width = regions.shape
        _, num_texts, num_words, _ = words.shape
        new = images.bias.new_empty
        sums = (
            *(new(num_images, num_texts, num_words) for _ in range(2)),
            *(new(num_images, num_texts, num_regions) for _ in range(2)),
            new(num_images, num_texts, num_heads, num_regions),
            new(num_texts, num_images, num_heads, num_words),
        )
        ctx.constants = _constants(images), _constants(texts)
        _forward_kernel[(num_images * num_texts,)](
            regions, *ctx.constants[0], words, *ctx.constants[1], *sums, *scales,
            num_images, num_texts, num_regions, num_words, width,
            HEADS=num_heads, BLOCK_X=_block(num_regions), BLOCK_Y=_block(num_words), BLOCK_W=_WIDTH_BLOCK,
        )  # fmt: skip
        ctx.scales = scales
        ctx.save_for_backward(regions, words)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        regions, words = ctx.saved_tensors
        over_regions, over_words = ctx.scales
        dot_regions, norm_regions, dot_words, norm_words, *shares = (part.contiguous() for part in gradients)
        regions_first = (dot_regions, norm_regions), (dot_words, norm_words)
        of_regions = _gradient(
            regions, words, ctx.constants, (over_regions, over_words), *regions_first, *shares, own_is_first=True
        )
        of_words = _gradient(
            words, regions, ctx.constants[::-1], (over_words, over_regions), *regions_first[::-1], *shares[::-1],
            own_is_first=False,
        )  # fmt: skip
        return of_regions, of_words, None, None, None


def _gradient(
    own: Tensor,
    other: Tensor,
    constants: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    scales: tuple[float, float],
    over_own: tuple[Tensor, Tensor],
    over_other: tuple[Tensor, Tensor],
    own_shares: Tensor,
    other_shares: Tensor,
    *,
    own_is_first: bool,
) -> Tensor:
    """Gradient of one side's tokens, (H, B, T, W), from those of the sums.

    Args:
        own: Tokens of this side, (H, B, T, W).
        other: Tokens of the other side, (H, A, S, W).
        constants: From `_constants`, of both sides.
        scales: Of the logits over own and over other tokens.
        over_own: Gradients of q . q' and |q'|^2 over own tokens; images first, whatever side this is.
        over_other: The same over the other's tokens.
        own_shares: Gradient of the attention over own tokens, (B, A, H, T).
        other_shares: Gradient of the attention over the other's tokens, (A, B, H, S).
        own_is_first: Whether own items lie along the first axis of the sums.
    """
    num_heads, num_own, own_tokens, width = own.shape
    _, num_other, other_tokens, _ = other.shape
    own_stride, other_stride = (num_other, 1) if own_is_first else (1, num_own)
    of_tokens = torch.empty_like(own, dtype=own_shares.dtype)
    of_gram = own_shares.new_empty(num_heads, num_own, own_tokens, own_tokens)
    _backward_kernel[(num_own, num_heads, triton.cdiv(width, _WIDTH_BLOCK))](
        own, *constants[0], other, *constants[1], *over_own, *over_other, own_shares, other_shares,
        of_tokens, of_gram, *scales, num_own, num_other, own_tokens, other_tokens, width, own_stride, other_stride,
        HEADS=num_heads, BLOCK_X=_block(own_tokens), BLOCK_Y=_block(other_tokens), BLOCK_W=_WIDTH_BLOCK,
    )  # fmt: skip
    # twice the gradient of the Gram matrix, since both of its factors are the tokens
    return (of_tokens + 2 * of_gram @ own.to(of_gram.dtype)).to(own.dtype)


def _constants(items: TokenSet) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrices (H, B, T, T), bias and share (B, T), as the kernels read them."""
    if items.gram is not None:
        gram = items.gram
    else:
        heads = items.heads.detach().to(items.bias.dtype)
        gram = heads @ heads.mT
    return gram.contiguous(), items.bias.contiguous(), items.share.contiguous()


def _block(num_tokens: int) -> int:
    """Padded number of tokens: tl.dot takes powers of two from 16 on."""
    return max(16, triton.next_power_of_2(num_tokens))


@triton.jit
def _load_gram(pointer, item, num_tokens, BLOCK: tl.constexpr):
    """The (T, T) Gram matrix of an item, zero beyond its tokens."""
    rows = tl.arange(0, BLOCK)
    inside = (rows < num_tokens)[:, None] & (rows < num_tokens)[None, :]
    places = rows[:, None] * num_tokens + rows[None, :]
    return tl.load(pointer + item * num_tokens * num_tokens + places, mask=inside, other=0.0)


@triton.jit
def _load_row(pointer, start, num_tokens, other, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    return tl.load(pointer + start + places, mask=places < num_tokens, other=other)


@triton.jit
def _load_tokens(pointer, item, num_tokens, width, start, BLOCK: tl.constexpr, BLOCK_W: tl.constexpr):
    """A block of the width of an item's tokens, (T, BLOCK_W), zero beyond both."""
    rows, columns = tl.arange(0, BLOCK), start + tl.arange(0, BLOCK_W)
    inside = (rows < num_tokens)[:, None] & (columns < width)[None, :]
    return tl.load(pointer + (item * num_tokens + rows[:, None]) * width + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _attend(
    x_tokens, y_tokens, x_item, y_item, x_len, y_len, width, x_bias, y_bias, scale_x, scale_y,
    BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Dot products of one head of one pair, (X, Y), and the attention over x and over y."""
    scores = tl.zeros((BLOCK_X, BLOCK_Y), dtype=tl.float32)
    for start in range(0, width, BLOCK_W):
        x = _load_tokens(x_tokens, x_item, x_len, width, start, BLOCK_X, BLOCK_W)
        y = _load_tokens(y_tokens, y_item, y_len, width, start, BLOCK_Y, BLOCK_W)
        scores += tl.dot(x, tl.trans(y), input_precision="ieee")
    over_x = scores * scale_x + x_bias[:, None]
    over_x = tl.exp(over_x - tl.max(over_x, 0)[None, :])
    over_y = scores * scale_y + y_bias[None, :]
    over_y = tl.exp(over_y - tl.max(over_y, 1)[:, None])
    return scores, over_x / tl.sum(over_x, 0)[None, :], over_y / tl.sum(over_y, 1)[:, None]


@triton.jit
def _forward_kernel(
    x_tokens, x_gram, x_bias, x_share, y_tokens, y_gram, y_bias, y_share,
    dot_x, norm_x, dot_y, norm_y, x_shares, y_shares, scale_x, scale_y, num_x, num_y, x_len, y_len, width,
    HEADS: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """One pair: `dot_x` and `norm_x` are q . q' and |q'|^2 of the queries y that attend over x, and so on."""
    pair = tl.program_id(0).to(tl.int64)
    i, j = pair // num_y, pair % num_y
    bias_x = _load_row(x_bias, i * x_len, x_len, -float("inf"), BLOCK_X)
    bias_y = _load_row(y_bias, j * y_len, y_len, -float("inf"), BLOCK_Y)
    share_x = _load_row(x_share, i * x_len, x_len, 0.0, BLOCK_X)
    share_y = _load_row(y_share, j * y_len, y_len, 0.0, BLOCK_Y)
    xs, ys = tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_Y)
    sum_dot_x, sum_norm_x = tl.zeros((BLOCK_Y,), dtype=tl.float32), tl.zeros((BLOCK_Y,), dtype=tl.float32)
    sum_dot_y, sum_norm_y = tl.zeros((BLOCK_X,), dtype=tl.float32), tl.zeros((BLOCK_X,), dtype=tl.float32)
    for head in range(HEADS):
        scores, over_x, over_y = _attend(
            x_tokens, y_tokens, head * num_x + i, head * num_y + j, x_len, y_len, width,
            bias_x, bias_y, scale_x, scale_y, BLOCK_X, BLOCK_Y, BLOCK_W,
        )  # fmt: skip
        gram_x = tl.dot(_load_gram(x_gram, head * num_x + i, x_len, BLOCK_X), over_x, input_precision="ieee")
        gram_y = tl.dot(over_y, _load_gram(y_gram, head * num_y + j, y_len, BLOCK_Y), input_precision="ieee")
        sum_dot_x += tl.sum(over_x * scores, 0)
        sum_norm_x += tl.sum(over_x * gram_x, 0)
        sum_dot_y += tl.sum(over_y * scores, 1)
        sum_norm_y += tl.sum(over_y * gram_y, 1)
        mean_x, mean_y = tl.sum(over_x * share_y[None, :], 1), tl.sum(over_y * share_x[:, None], 0)
        tl.store(x_shares + (pair * HEADS + head) * x_len + xs, mean_x, mask=xs < x_len)
        tl.store(y_shares + ((j * num_x + i) * HEADS + head) * y_len + ys, mean_y, mask=ys < y_len)
    tl.store(dot_x + pair * y_len + ys, sum_dot_x, mask=ys < y_len)
    tl.store(norm_x + pair * y_len + ys, sum_norm_x, mask=ys < y_len)
    tl.store(dot_y + pair * x_len + xs, sum_dot_y, mask=xs < x_len)
    tl.store(norm_y + pair * x_len + xs, sum_norm_y, mask=xs < x_len)


@triton.jit
def _backward_kernel(
    x_tokens, x_gram, x_bias, x_share, y_tokens, y_gram, y_bias, y_share,
    of_dot_x, of_norm_x, of_dot_y, of_norm_y, of_x_shares, of_y_shares, of_tokens, of_gram, scale_x, scale_y,
    num_x, num_y, x_len, y_len, width, x_stride, y_stride,
    HEADS: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """One item x, one head and one block of its width, over all y."""
    i, head, start = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2) * BLOCK_W
    bias_x = _load_row(x_bias, i * x_len, x_len, -float("inf"), BLOCK_X)
    share_x = _load_row(x_share, i * x_len, x_len, 0.0, BLOCK_X)
    gram_of_x = _load_gram(x_gram, head * num_x + i, x_len, BLOCK_X)
    sum_tokens = tl.zeros((BLOCK_X, BLOCK_W), dtype=tl.float32)
    sum_gram = tl.zeros((BLOCK_X, BLOCK_X), dtype=tl.float32)
    for j in range(0, num_y):
        bias_y = _load_row(y_bias, j * y_len, y_len, -float("inf"), BLOCK_Y)
        share_y = _load_row(y_share, j * y_len, y_len, 0.0, BLOCK_Y)
        scores, over_x, over_y = _attend(
            x_tokens, y_tokens, head * num_x + i, head * num_y + j, x_len, y_len, width,
            bias_x, bias_y, scale_x, scale_y, BLOCK_X, BLOCK_Y, BLOCK_W,
        )  # fmt: skip
        pair = i * x_stride + j * y_stride
        a_x = _load_row(of_dot_x, pair * y_len, y_len, 0.0, BLOCK_Y)
        b_x = _load_row(of_norm_x, pair * y_len, y_len, 0.0, BLOCK_Y)
        a_y = _load_row(of_dot_y, pair * x_len, x_len, 0.0, BLOCK_X)
        b_y = _load_row(of_norm_y, pair * x_len, x_len, 0.0, BLOCK_X)
        mean_x = _load_row(of_x_shares, ((i * num_y + j) * HEADS + head) * x_len, x_len, 0.0, BLOCK_X)
        mean_y = _load_row(of_y_shares, ((j * num_x + i) * HEADS + head) * y_len, y_len, 0.0, BLOCK_Y)
        gram_x = tl.dot(gram_of_x, over_x, input_precision="ieee")
        gram_y = tl.dot(over_y, _load_gram(y_gram, head * num_y + j, y_len, BLOCK_Y), input_precision="ieee")
        inner_x = a_x[None, :] * scores + 2 * b_x[None, :] * gram_x + mean_x[:, None] * share_y[None, :]
        inner_y = a_y[:, None] * scores + 2 * b_y[:, None] * gram_y + mean_y[None, :] * share_x[:, None]
        inner_x -= tl.sum(over_x * inner_x, 0)[None, :]
        inner_y -= tl.sum(over_y * inner_y, 1)[:, None]
        of_scores = over_x * (a_x[None, :] + scale_x * inner_x) + over_y * (a_y[:, None] + scale_y * inner_y)
        y = _load_tokens(y_tokens, head * num_y + j, y_len, width, start, BLOCK_Y, BLOCK_W)
        sum_tokens += tl.dot(of_scores, y.to(tl.float32), input_precision="ieee")
        sum_gram += tl.dot(over_x * b_x[None, :], tl.trans(over_x), input_precision="ieee")
    xs, ws = tl.arange(0, BLOCK_X), start + tl.arange(0, BLOCK_W)
    item = head * num_x + i
    inside = (xs < x_len)[:, None] & (ws < width)[None, :]
    tl.store(of_tokens + (item * x_len + xs[:, None]) * width + ws[None, :], sum_tokens, mask=inside)
    square = (xs < x_len)[:, None] & (xs < x_len)[None, :]
    if tl.program_id(2) == 0:  # every block of the width finds the same
        tl.store(of_gram + (item * x_len + xs[:, None]) * x_len + xs[None, :], sum_gram, mask=square)
