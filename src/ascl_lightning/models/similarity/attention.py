"""Attention between all tokens of many images and many texts, reduced to similarities and mean attention.

Source: AsCL (arXiv 2405.10029), section III-C. Multi-head attention without projections: heads split the feature
dimension, values are keys, logits are dot products times a fixed scale.

The cosine of a query q with its attended vector q' can be computed without q'. With attention p_h over the context
vectors of head h and the dot products s_h, `q . q' = sum_h p_h . s_h` and `|q'|^2 = sum_h p_h' G_h p_h`, where G_h is
the Gram matrix of the context. One product of all regions with all words serves both directions.

The backward pass is custom: autograd would store twice as many arrays and read each more often. With
a = dL/d(q . q'), b = dL/d|q'|^2 and m = the gradient of the mean attention, the gradient of a head's dot products is

    dL/ds = p * (a + scale * (r - p . r)),  r = a s + 2 b G p + m,

and that of its Gram matrix is the sum over queries of b p p'. On a GPU, `attention_kernel` does the same in Triton.
"""

import importlib.util
import math
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import compress, islice
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ascl_lightning.models.similarity.tokens import TokenSet, inverse_norm, scoring_dtype


@dataclass(frozen=True)
class AttentionSettings:
    """How regions and words attend over each other.

    Args:
        num_heads: Number of heads, equal slices of the feature dimension.
        image_to_text_scale: Factor of the logits when regions attend over words.
        text_to_image_scale: Factor of the logits when words attend over regions.
    """

    num_heads: int
    image_to_text_scale: float
    text_to_image_scale: float


class Attended(NamedTuple):
    """Result of attention from the queries of A items over the tokens of B items, for every pair."""

    similarity: Float[Tensor, "B A"]
    """Mean over an item's queries of the cosine with their attended vectors."""
    shares: Float[Tensor, "B A HT"] | None
    """Attention averaged over an item's queries, heads concatenated; it determines the mean attended vector."""
    cosines: Float[Tensor, "B A Q"] | None = None
    """Cosine of each of an item's queries with its attended vector; 0 at padding."""


def attend_over_words(
    images: TokenSet, texts: TokenSet, attention: AttentionSettings, *, shares: bool = False, cosines: bool = False
) -> Attended:
    """Regions of N images attend over the words of M texts: B = M, A = N. See `attend_both_ways`."""
    return _attend_pairs(images, texts, attention, shares, cosines, over_regions=False)[0]


def attend_over_regions(
    images: TokenSet, texts: TokenSet, attention: AttentionSettings, *, shares: bool = False, cosines: bool = False
) -> Attended:
    """Words of M texts attend over the regions of N images: B = N, A = M. See `attend_both_ways`."""
    return _attend_pairs(images, texts, attention, shares, cosines, over_words=False)[0]


def attend_both_ways(
    images: TokenSet, texts: TokenSet, attention: AttentionSettings, *, shares: bool = False, cosines: bool = False
) -> tuple[Attended, Attended]:
    """Attention between all regions of N images and all words of M texts, with gradients.

    Needs memory for a few arrays of N * M * K * L elements, one head at a time; with gradients, for three arrays per
    head and direction. Computed in float32 or float64.

    Args:
        images: Regions.
        texts: Words.
        attention: Heads and scales.
        shares: Return `Attended.shares`.
        cosines: Return `Attended.cosines`.

    Returns:
        Over words (B = M, A = N) and over regions (B = N, A = M).
    """
    over_words, over_regions = _attend_pairs(images, texts, attention, shares, cosines)
    return over_words, over_regions


def mean_similarity(over_words: Attended, over_regions: Attended) -> Float[Tensor, "N M"]:
    """S_local, the mean of both directions."""
    return (over_words.similarity.T + over_regions.similarity) / 2


class _Head(NamedTuple):
    """One head of a direction, Q = A * (queries per item). Queries are last: sums over a short last axis are slow."""

    scores: Tensor
    """Dot products s of context and queries, (B, T, Q)."""
    weights: Tensor
    """Attention p, (B, T, Q)."""
    product: Tensor
    """G p, (B, T, Q)."""
    dot: Tensor
    """q . q', (B, Q)."""
    squared_norm: Tensor
    """|q'|^2, (B, Q)."""


_KEPT = ("products", "transposed", "weights", "gram_product")
"""The arrays of `_Scratch` that the backward pass reads."""


class _Scratch:
    """Arrays with one element per region and word, reused by all heads.

    With newly allocated arrays, page faults would take longer than the arithmetic.

    Args:
        like: A tensor with the dtype and the device of the arrays.
        size: Number of elements of each.
        fresh: Names of arrays that are allocated on every call, because they are kept.
    """

    def __init__(self, like: Tensor, size: int, fresh: Collection[str]) -> None:
        self._like, self._size, self._fresh = like, size, fresh
        self._arrays: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The array of a name in a shape of the same size; its content is undefined."""
        if name in self._fresh:
            return self._like.new_empty(self._size).view(shape)
        if name not in self._arrays:
            self._arrays[name] = self._like.new_empty(self._size)
        return self._arrays[name].view(shape)


class _Direction:
    """Attention from the queries of A items over the tokens of B items, without autograd.

    Args:
        context: The B items.
        queries: The A items.
        scale: Factor of the logits.
        over_words: Whether the context is words.
    """

    def __init__(self, context: TokenSet, queries: TokenSet, scale: float, *, over_words: bool) -> None:
        self.bias = context.bias
        self._context = context.heads.detach() if context.gram is None else context.gram
        self._is_gram = context.gram is not None
        self.share = queries.share
        self.scale = scale
        self.over_words = over_words

    def attend(self, number: int, products: Tensor, scratch: _Scratch) -> _Head:
        """Computes one head from its dot products of all regions with all words, (N * K, M * L)."""
        shape = (*self.bias.shape, self.share.numel())
        scores = products.view(shape)
        if self.over_words:
            scores = scratch.take("transposed", shape)
            scores.view(products.shape[::-1]).copy_(products.T)
        logits = torch.add(self.bias[..., None], scores, alpha=self.scale, out=scratch.take("sum", shape))
        weights = torch.softmax(logits, 1, out=scratch.take("weights", shape))
        dot = torch.mul(weights, scores, out=logits).sum(1)
        product = self._gram_product(number, weights, scratch.take("gram_product", shape))
        return _Head(scores, weights, product, dot, torch.mul(weights, product, out=logits).sum(1))

    def mean_attention(self, head: _Head) -> Tensor:
        """Attention averaged over an item's queries, (B, A, T)."""
        return (head.weights.unflatten(2, self.share.shape) * self.share).sum(3).transpose(1, 2)

    def _gram_product(self, number: int, weights: Tensor, out: Tensor) -> Tensor:
        """G p of one head, (B, T, Q)."""
        context = self._context[number].to(weights.dtype)
        return torch.bmm(context, weights if self._is_gram else context.mT @ weights, out=out)

    def backward(
        self,
        heads: list[_Head],
        weight: Tensor,
        of_similarity: Tensor,
        of_shares: Tensor | None,
        of_lengths: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Gradients of each head's scores (B, T, Q), twice those of its Gram matrix (B, T, T), and of the weight.

        Args:
            heads: From `attend`.
            weight: `TokenSet.weight` of the queries.
            of_similarity: Gradient of the similarity, (B, A).
            of_shares: Gradient of the mean attention, heads concatenated, (B, A, H * T).
            of_lengths: Gradient of `q . q' / |q'|`, (B, A, queries per item).
        """
        dot = _sum([head.dot for head in heads])
        inverse = inverse_norm(_sum([head.squared_norm for head in heads]))
        of_weight = (of_similarity[..., None] * (dot * inverse).unflatten(1, weight.shape)).sum(0)
        of_query = of_similarity[..., None] * weight
        of_dot = (of_query if of_lengths is None else of_query + of_lengths).flatten(1) * inverse
        of_norm = -of_dot * dot * inverse.square()  # twice the gradient of |q'|^2
        of_scores, of_grams = [], []
        for number, head in enumerate(heads):
            inner = torch.mul(head.scores, of_dot[:, None]).addcmul_(head.product, of_norm[:, None])
            centre = of_dot * head.dot + of_norm * head.squared_norm
            if of_shares is not None:
                of_mean = of_shares.chunk(len(heads), 2)[number].transpose(1, 2)
                of_attention = (of_mean[..., None] * self.share).flatten(2)
                inner += of_attention
                centre += (head.weights * of_attention).sum(1)
            inner -= centre[:, None]
            of_scores.append(torch.add(of_dot[:, None], inner, alpha=self.scale).mul_(head.weights))
            of_grams.append((head.weights * of_norm[:, None]) @ head.weights.mT)
        return of_scores, of_grams, of_weight


def _kernels(images: TokenSet, texts: TokenSet) -> ModuleType | None:
    """The Triton kernels, or None if they do not support these items or `ASCL_KERNELS` is 0."""
    wanted = images.heads.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    if not wanted or os.environ.get("ASCL_KERNELS") == "0" or importlib.util.find_spec("triton") is None:
        return None
    # imported late: triton is not available on every platform, and its import is slow
    kernels = importlib.import_module("ascl_lightning.models.similarity.attention_kernel")
    return kernels if kernels.kernel_fits(images, texts) and kernels.kernel_works(images, texts) else None


def _attend_pairs(
    images: TokenSet,
    texts: TokenSet,
    attention: AttentionSettings,
    shares: bool,
    cosines: bool,
    *,
    over_words: bool = True,
    over_regions: bool = True,
) -> list[Attended]:
    """The requested directions, over words first; the kernels always compute both."""
    queries = [items for items, wanted in ((images, over_words), (texts, over_regions)) if wanted]
    if (kernels := _kernels(images, texts)) is not None:
        scales = attention.image_to_text_scale, attention.text_to_image_scale
        both = kernels.attend_pairs(images, texts, *scales, shares=shares, lengths=cosines)
        results: Iterable[Any] = compress(both, (over_words, over_regions))
    else:
        directions = []
        if over_words:
            directions.append(_Direction(texts, images, attention.image_to_text_scale, over_words=True))
        if over_regions:
            directions.append(_Direction(images, texts, attention.text_to_image_scale, over_words=False))
        weights = [items.weight for items in queries]
        flat = iter(_AttendPairs.apply(images.heads, texts.heads, directions, shares, cosines, *weights))
        results = (tuple(islice(flat, 3)) for _ in directions)
    return [_with_cosines(Attended(*result), items) for result, items in zip(results, queries, strict=True)]


def _with_cosines(attended: Attended, queries: TokenSet) -> Attended:
    """Divides `q . q' / |q'|` by the norms of the queries."""
    if attended.cosines is None:
        return attended
    return attended._replace(cosines=attended.cosines * queries.inverse_norms)


class _Total:
    """Sums of a direction over heads, and the arrays for its backward pass."""

    def __init__(self, direction: _Direction, *, shares: bool, lengths: bool, keep: bool) -> None:
        self.kept: list[Tensor] = []
        self._direction, self._wants_shares, self._wants_lengths, self._keep = direction, shares, lengths, keep
        self._dots: list[Tensor] = []
        self._squared_norms: list[Tensor] = []
        self._shares: list[Tensor] = []

    def add(self, number: int, products: Tensor, scratch: _Scratch) -> None:
        head = self._direction.attend(number, products, scratch)
        self._dots.append(head.dot)
        self._squared_norms.append(head.squared_norm)
        if self._wants_shares:
            self._shares.append(self._direction.mean_attention(head))
        if self._keep:
            self.kept.extend(head)

    def results(self, weight: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Mean cosine (B, A), mean attention with heads concatenated (B, A, H * T), and `q . q' / |q'|` (B, A, Q)."""
        lengths = (_sum(self._dots) * inverse_norm(_sum(self._squared_norms))).unflatten(1, weight.shape)
        shares = torch.cat(self._shares, 2) if self._wants_shares else None
        return (lengths * weight).sum(-1), shares, lengths if self._wants_lengths else None


class _AttendPairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        region_heads: Tensor,
        word_heads: Tensor,
        directions: list[_Direction],
        shares: bool,
        lengths: bool,
        *weights: Tensor,
    ) -> tuple[Tensor | None, ...]:
        keep = any(ctx.needs_input_grad)
        totals = [_Total(direction, shares=shares, lengths=lengths, keep=keep) for direction in directions]
        dtype = scoring_dtype(region_heads, word_heads)
        shape = region_heads[0, ..., 0].numel(), word_heads[0, ..., 0].numel()
        scratch = _Scratch(region_heads.new_empty(0, dtype=dtype), math.prod(shape), _KEPT if keep else ())
        for number, (regions, words) in enumerate(zip(region_heads, word_heads, strict=True)):
            products = scratch.take("products", shape)
            torch.mm(regions.to(dtype).flatten(0, 1), words.to(dtype).flatten(0, 1).T, out=products)
            for total in totals:
                total.add(number, products, scratch)
        ctx.set_materialize_grads(False)
        ctx.directions = directions
        ctx.save_for_backward(region_heads, word_heads, *weights, *(array for total in totals for array in total.kept))
        pairs = zip(totals, weights, strict=True)
        return tuple(result for total, weight in pairs for result in total.results(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        region_heads, word_heads, *rest = ctx.saved_tensors
        weights, arrays = rest[: len(ctx.directions)], iter(rest[len(ctx.directions) :])
        dtype = scoring_dtype(region_heads, word_heads)
        regions, words = region_heads.to(dtype), word_heads.to(dtype)
        of_regions, of_words = torch.zeros_like(regions), torch.zeros_like(words)
        of_products: list[Tensor] = []
        of_weights = []
        for number, (direction, weight) in enumerate(zip(ctx.directions, weights, strict=True)):
            heads = [_Head(*islice(arrays, len(_Head._fields))) for _ in regions]
            of_similarity, *of_rest = gradients[3 * number : 3 * number + 3]
            if of_similarity is None:
                of_similarity = weight.new_zeros(len(direction.bias), len(weight))
            of_scores, of_grams, of_weight = direction.backward(heads, weight, of_similarity, *of_rest)
            of_weights.append(of_weight)
            flat = [of_score.flatten(0, 1) for of_score in of_scores]
            flat = [of_product.T for of_product in flat] if direction.over_words else flat
            of_products = [a + b for a, b in zip(of_products, flat, strict=True)] if of_products else flat
            context, of_context = (words, of_words) if direction.over_words else (regions, of_regions)
            for head, of_gram in enumerate(of_grams):
                of_context[head] += of_gram @ context[head]
        for head, of_product in enumerate(of_products):
            of_regions[head] += (of_product @ words[head].flatten(0, 1)).view_as(of_regions[head])
            of_words[head] += (of_product.T @ regions[head].flatten(0, 1)).view_as(of_words[head])
        return of_regions.to(region_heads.dtype), of_words.to(word_heads.dtype), None, None, None, *of_weights


def _sum(arrays: list[Tensor]) -> Tensor:
    return torch.stack(arrays).sum(0)
