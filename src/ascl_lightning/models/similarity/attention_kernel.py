"""Triton kernels for the computation of `attention`, with fewer passes over GPU memory.

One matrix product gives the dot products of all regions with all words. A Triton kernel reads them once and computes
the rest of a pair in registers: both softmaxes, the products with Gram matrices, and all sums. In the backward pass,
another kernel overwrites the dot products with their gradient and stores both attentions; matrix products do the rest.
Each sum is computed by one program, without atomics, so results are deterministic.

In the kernels, x are the tokens of the image (regions) and y those of the text (words). Each query y has a softmax
over x, and each query x a softmax over y.
"""

import os
import warnings
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ascl_lightning.models.similarity.tokens import TokenSet, inverse_norm, token_set

_LARGEST_BLOCK = 128
"""Maximum number of padded tokens: two float32 arrays of 128 x 128 per direction fill the registers of a program."""
_PRECISION = "tf32x3"
"""float32 products on tensor cores, each computed as three tf32 products; exact to a few units in the last place."""
_FORWARD_OPTIONS = {"num_warps": 4, "num_stages": 1}
_BACKWARD_OPTIONS = {"num_warps": 4, "num_stages": 1}


def kernel_fits(images: TokenSet, texts: TokenSet) -> bool:
    """Whether the kernels support these items: on a GPU, of one supported dtype, without too many tokens."""
    tokens = images.heads, texts.heads
    runs = all(heads.is_cuda for heads in tokens) or os.environ.get("TRITON_INTERPRET") == "1"
    return (
        runs
        and images.heads.dtype == texts.heads.dtype
        and images.heads.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and all(heads.shape[1] > 0 and _block(heads.shape[2]) <= _LARGEST_BLOCK for heads in tokens)
    )


def kernel_works(images: TokenSet, texts: TokenSet) -> bool:
    """Whether both kernels compile and run for such items; if not, warns once with the reason."""
    num_heads, _, num_regions, width = images.heads.shape
    num_words = texts.heads.shape[2]
    return _try_kernels(
        images.heads.device, images.heads.dtype, num_heads, _block(num_regions), _block(num_words), width
    )


@cache
def _try_kernels(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_regions: int, num_words: int, width: int
) -> bool:
    try:
        with torch.inference_mode(False), torch.enable_grad():
            images, texts = (
                token_set(
                    torch.ones(2, num_tokens, num_heads * width, dtype=dtype, device=device, requires_grad=True),
                    torch.ones(2, num_tokens, dtype=torch.bool, device=device),
                    num_heads,
                )
                for num_tokens in (num_regions, num_words)
            )
            over_words, over_regions = attend_pairs(images, texts, 1.0, 1.0)
            (over_words[0].sum() + over_regions[0].sum()).backward()
            torch.empty(0, device=device).cpu()  # waits for the device
    except Exception as error:  # compilers, linkers and drivers each raise their own
        warnings.warn(
            f"the attention kernels do not work on {device} ({type(error).__name__}: {str(error)[:200]}); "
            f"PyTorch computes the same, more slowly. ASCL_KERNELS=0 turns them off without this warning",
            stacklevel=2,
        )
        return False
    return True


def attend_pairs(
    images: TokenSet,
    texts: TokenSet,
    over_words_scale: float,
    over_regions_scale: float,
    *,
    shares: bool = True,
    lengths: bool = False,
) -> tuple[
    tuple[Float[Tensor, "M N"], Float[Tensor, "M N HL"] | None, Float[Tensor, "M N K"] | None],
    tuple[Float[Tensor, "N M"], Float[Tensor, "N M HK"] | None, Float[Tensor, "N M L"] | None],
]:
    """Similarity, shares and `q . q' / |q'|` over words and over regions, with gradients (see `attention.Attended`)."""
    scales = over_regions_scale, over_words_scale
    sums = _PairSums.apply(images.heads, texts.heads, images, texts, scales, shares)
    dot_regions, norm_regions, dot_words, norm_words, region_shares, word_shares = sums
    of_words = dot_regions * inverse_norm(norm_regions)
    of_regions = dot_words * inverse_norm(norm_words)
    over_regions = (of_words * texts.weight).sum(-1)
    over_words = (of_regions * images.weight[:, None]).sum(-1).T
    return (
        (over_words, word_shares.flatten(2) if shares else None, of_regions.transpose(0, 1) if lengths else None),
        (over_regions, region_shares.flatten(2) if shares else None, of_words if lengths else None),
    )


class _PairSums(torch.autograd.Function):
    """Sums over heads of q . q' and |q'|^2, over regions (N, M, L) and over words (N, M, K), and both shares."""

    @staticmethod
    def forward(
        ctx: Any,
        regions: Tensor,
        words: Tensor,
        images: TokenSet,
        texts: TokenSet,
        scales: tuple[float, float],
        shares: bool,
    ) -> tuple[Tensor, ...]:
        num_heads, num_images, num_regions, _ = regions.shape
        _, num_texts, num_words, _ = words.shape
        new = images.bias.new_empty
        sums = (
            *(new(num_images, num_texts, num_words) for _ in range(2)),
            *(new(num_images, num_texts, num_regions) for _ in range(2)),
            new(num_images, num_texts, num_heads, num_regions if shares else 0),
            new(num_texts, num_images, num_heads, num_words if shares else 0),
        )
        ctx.constants = _constants(images), _constants(texts)
        _forward_kernel[(num_texts, num_images)](
            _products(regions, words), *ctx.constants[0], *ctx.constants[1], *sums, *scales,
            num_images, num_texts, num_regions, num_words,
            HEADS=num_heads, SHARES=shares, PRECISION=_PRECISION, BLOCK_X=_block(num_regions),
            BLOCK_Y=_block(num_words), **_FORWARD_OPTIONS,
        )  # fmt: skip
        ctx.scales, ctx.shares = scales, shares
        ctx.save_for_backward(regions, words)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        regions, words = ctx.saved_tensors
        num_heads, num_images, num_regions, _ = regions.shape
        _, num_texts, num_words, _ = words.shape
        of_sums = tuple(gradient.contiguous() for gradient in gradients)
        of_scores = _products(regions, words)
        over_regions = torch.empty_like(of_scores)
        over_words = of_scores.new_empty(num_heads, num_texts * num_words, num_images * num_regions)
        _backward_kernel[(num_texts, num_images, num_heads)](
            of_scores, over_regions, over_words, *ctx.constants[0], *ctx.constants[1], *of_sums, *ctx.scales,
            num_images, num_texts, num_regions, num_words,
            HEADS=num_heads, SHARES=ctx.shares, PRECISION=_PRECISION, BLOCK_X=_block(num_regions),
            BLOCK_Y=_block(num_words), **_BACKWARD_OPTIONS,
        )  # fmt: skip
        of_regions = of_scores @ words.flatten(1, 2).to(of_scores.dtype)
        of_words = of_scores.mT @ regions.flatten(1, 2).to(of_scores.dtype)
        del of_scores
        _, of_norm_regions, _, of_norm_words, *_ = of_sums
        of_regions = of_regions.view(regions.shape) + _through_norms(over_regions, of_norm_regions, regions)
        of_words = of_words.view(words.shape) + _through_norms(over_words, of_norm_words.transpose(0, 1), words)
        return of_regions.to(regions.dtype), of_words.to(words.dtype), None, None, None, None


def _products(regions: Float[Tensor, "H N K W"], words: Float[Tensor, "H M L W"]) -> Float[Tensor, "H NK ML"]:
    """Dot products of all regions with all words, summed in float32."""
    first, second = regions.flatten(1, 2), words.flatten(1, 2).mT
    if first.is_cuda and first.dtype != torch.float32:
        return torch.bmm(first, second, out_dtype=torch.float32)
    return torch.bmm(first.float(), second.float())


def _through_norms(
    weights: Float[Tensor, "H BT Q"], of_norm: Float[Tensor, "B A S"], tokens: Float[Tensor, "H B T W"]
) -> Float[Tensor, "H B T W"]:
    """Gradient of the tokens through |q'|^2 = p' G p of the Q = A * S queries, with G = tokens tokens'."""
    num_heads, num_items, num_tokens, _ = tokens.shape
    weights = weights.view(num_heads, num_items, num_tokens, -1)
    of_gram = (weights * of_norm.flatten(1)[:, None]) @ weights.mT
    # factor 2: both factors of the Gram matrix are the tokens
    return 2 * of_gram @ tokens.to(of_gram.dtype)


def _constants(items: TokenSet) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrices (H, B, T, T), bias and share (B, T), contiguous for the kernels."""
    if items.gram is not None:
        gram = items.gram
    else:
        heads = items.heads.detach().to(items.bias.dtype)
        gram = heads @ heads.mT
    return gram.contiguous(), items.bias.contiguous(), items.share.contiguous()


def _block(num_tokens: int) -> int:
    """Padded number of tokens: tl.dot needs powers of two, at least 16."""
    return max(16, triton.next_power_of_2(num_tokens))


@triton.jit
def _load_row(pointer, start, num_tokens, other, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    return tl.load(pointer + start + places, mask=places < num_tokens, other=other)


@triton.jit
def _load_gram(pointer, item, num_tokens, BLOCK: tl.constexpr):
    """The (T, T) Gram matrix of an item, zero beyond its tokens."""
    rows = tl.arange(0, BLOCK)
    inside = (rows < num_tokens)[:, None] & (rows < num_tokens)[None, :]
    start = pointer + item * num_tokens * num_tokens
    return tl.load(start + (rows[:, None] * num_tokens + rows[None, :]), mask=inside, other=0.0)


@triton.jit
def _softmax(logits, AXIS: tl.constexpr):
    weights = tl.exp(logits - tl.expand_dims(tl.max(logits, AXIS), AXIS))
    return weights * tl.expand_dims(1.0 / tl.sum(weights, AXIS), AXIS)


@triton.jit
def _forward_kernel(
    products, x_gram, x_bias, x_share, y_gram, y_bias, y_share,
    dot_x, norm_x, dot_y, norm_y, x_shares, y_shares, scale_x, scale_y, num_x, num_y, x_len, y_len,
    HEADS: tl.constexpr, SHARES: tl.constexpr, PRECISION: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """One pair: `dot_x` and `norm_x` are q . q' and |q'|^2 of the queries y that attend over x, and so on."""
    i, j = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    pair = i * num_y + j
    xs, ys = tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_Y)
    inside = (xs < x_len)[:, None] & (ys < y_len)[None, :]
    places = xs[:, None] * (num_y * y_len) + ys[None, :]
    bias_x = _load_row(x_bias, i * x_len, x_len, -float("inf"), BLOCK_X)
    bias_y = _load_row(y_bias, j * y_len, y_len, -float("inf"), BLOCK_Y)
    sum_dot_x, sum_norm_x = tl.zeros((BLOCK_Y,), dtype=tl.float32), tl.zeros((BLOCK_Y,), dtype=tl.float32)
    sum_dot_y, sum_norm_y = tl.zeros((BLOCK_X,), dtype=tl.float32), tl.zeros((BLOCK_X,), dtype=tl.float32)
    for head in range(HEADS):
        start = products + ((head * num_x + i) * x_len * num_y + j) * y_len
        scores = tl.load(start + places, mask=inside, other=0.0)
        over = _softmax(scores * scale_x + bias_x[:, None], 0)
        gram = tl.dot(_load_gram(x_gram, head * num_x + i, x_len, BLOCK_X), over, input_precision=PRECISION)
        sum_dot_x += tl.sum(over * scores, 0)
        sum_norm_x += tl.sum(over * gram, 0)
        if SHARES:
            share_y = _load_row(y_share, j * y_len, y_len, 0.0, BLOCK_Y)
            mean = tl.sum(over * share_y[None, :], 1)
            tl.store(x_shares + (pair * HEADS + head) * x_len + xs, mean, mask=xs < x_len)
        over = _softmax(scores * scale_y + bias_y[None, :], 1)
        gram = tl.dot(over, _load_gram(y_gram, head * num_y + j, y_len, BLOCK_Y), input_precision=PRECISION)
        sum_dot_y += tl.sum(over * scores, 1)
        sum_norm_y += tl.sum(over * gram, 1)
        if SHARES:
            share_x = _load_row(x_share, i * x_len, x_len, 0.0, BLOCK_X)
            mean = tl.sum(over * share_x[:, None], 0)
            tl.store(y_shares + ((j * num_x + i) * HEADS + head) * y_len + ys, mean, mask=ys < y_len)
    tl.store(dot_x + pair * y_len + ys, sum_dot_x, mask=ys < y_len)
    tl.store(norm_x + pair * y_len + ys, sum_norm_x, mask=ys < y_len)
    tl.store(dot_y + pair * x_len + xs, sum_dot_y, mask=xs < x_len)
    tl.store(norm_y + pair * x_len + xs, sum_norm_y, mask=xs < x_len)


@triton.jit
def _backward_kernel(
    products, attention_x, attention_y, x_gram, x_bias, x_share, y_gram, y_bias, y_share,
    of_dot_x, of_norm_x, of_dot_y, of_norm_y, of_x_shares, of_y_shares, scale_x, scale_y, num_x, num_y, x_len, y_len,
    HEADS: tl.constexpr, SHARES: tl.constexpr, PRECISION: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """One pair and head: overwrites the products with their gradient and stores attention, queries last."""
    i, j, head = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64), tl.program_id(2)
    pair = i * num_y + j
    xs, ys = tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_Y)
    inside = (xs < x_len)[:, None] & (ys < y_len)[None, :]
    places = xs[:, None] * (num_y * y_len) + ys[None, :]
    start = ((head * num_x + i) * x_len * num_y + j) * y_len
    scores = tl.load(products + start + places, mask=inside, other=0.0)

    # queries y, one per column
    of_dot = _load_row(of_dot_x, pair * y_len, y_len, 0.0, BLOCK_Y)
    of_norm = _load_row(of_norm_x, pair * y_len, y_len, 0.0, BLOCK_Y)
    bias_x = _load_row(x_bias, i * x_len, x_len, -float("inf"), BLOCK_X)
    over = _softmax(scores * scale_x + bias_x[:, None], 0)
    tl.store(attention_x + start + places, over, mask=inside)
    gram = tl.dot(_load_gram(x_gram, head * num_x + i, x_len, BLOCK_X), over, input_precision=PRECISION)
    inner = of_dot[None, :] * scores + 2 * of_norm[None, :] * gram
    if SHARES:
        of_mean = _load_row(of_x_shares, (pair * HEADS + head) * x_len, x_len, 0.0, BLOCK_X)
        inner += of_mean[:, None] * _load_row(y_share, j * y_len, y_len, 0.0, BLOCK_Y)[None, :]
    inner -= tl.sum(over * inner, 0)[None, :]
    of_scores = over * (of_dot[None, :] + scale_x * inner)

    # queries x, one per row
    of_dot = _load_row(of_dot_y, pair * x_len, x_len, 0.0, BLOCK_X)
    of_norm = _load_row(of_norm_y, pair * x_len, x_len, 0.0, BLOCK_X)
    bias_y = _load_row(y_bias, j * y_len, y_len, -float("inf"), BLOCK_Y)
    over = _softmax(scores * scale_y + bias_y[None, :], 1)
    transposed = attention_y + ((head * num_y + j) * y_len * num_x + i) * x_len
    tl.store(transposed + (ys[None, :] * (num_x * x_len) + xs[:, None]), over, mask=inside)
    gram = tl.dot(over, _load_gram(y_gram, head * num_y + j, y_len, BLOCK_Y), input_precision=PRECISION)
    inner = of_dot[:, None] * scores + 2 * of_norm[:, None] * gram
    if SHARES:
        of_mean = _load_row(of_y_shares, ((j * num_x + i) * HEADS + head) * y_len, y_len, 0.0, BLOCK_Y)
        inner += of_mean[None, :] * _load_row(x_share, i * x_len, x_len, 0.0, BLOCK_X)[:, None]
    inner -= tl.sum(over * inner, 1)[:, None]
    of_scores += over * (of_dot[:, None] + scale_y * inner)
    tl.store(products + start + places, of_scores, mask=inside)
