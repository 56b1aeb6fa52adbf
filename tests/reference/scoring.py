"""The scores of docs/method.md#cross-modal-fusion written out, one pair, one query and one head at a time.

Tokens come without padding: a caller removes it by indexing, so no mask can be wrong here.
"""

import torch
from torch import Tensor


def attended(query: Tensor, context: Tensor, num_heads: int, scale: float) -> Tensor:
    """The vector (D,) that a query (D,) gets from the context vectors (T, D), heads side by side."""
    width = query.shape[0] // num_heads
    parts = []
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        logits = torch.stack([scale * torch.dot(query[part], vector[part]) for vector in context])
        weights = logits.exp() / logits.exp().sum()
        parts.append(sum(weight * vector[part] for weight, vector in zip(weights, context, strict=True)))
    return torch.cat(parts)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two vectors; 0 where one of them is zero."""
    if not first.any() or not second.any():
        return torch.zeros((), dtype=first.dtype)
    return torch.dot(first, second) / (first.norm() * second.norm())


def mean_attended(queries: Tensor, context: Tensor, num_heads: int, scale: float) -> Tensor:
    """The mean (D,) of what the queries (Q, D) get from the context (T, D)."""
    return torch.stack([attended(query, context, num_heads, scale) for query in queries]).mean(0)


def direction_similarity(queries: Tensor, context: Tensor, num_heads: int, scale: float) -> Tensor:
    """Mean over queries (Q, D) of the cosine with what they get from the context (T, D)."""
    if len(queries) == 0 or len(context) == 0:
        return torch.zeros((), dtype=queries.dtype)
    cosines = [cosine(query, attended(query, context, num_heads, scale)) for query in queries]
    return torch.stack(cosines).mean()


def local_similarity(
    regions: Tensor, words: Tensor, num_heads: int, image_to_text_scale: float, text_to_image_scale: float
) -> tuple[Tensor, Tensor]:
    """`s_i2t` and `s_t2i` of one image (K, D) and one text (L, D)."""
    image_to_text = direction_similarity(regions, words, num_heads, image_to_text_scale)
    text_to_image = direction_similarity(words, regions, num_heads, text_to_image_scale)
    return image_to_text, text_to_image


def linear(vector: Tensor, layer: torch.nn.Linear) -> Tensor:
    """`Linear(vector)` in the vector's precision."""
    return layer.weight.to(vector.dtype) @ vector + layer.bias.to(vector.dtype)


def fuse(pooled: Tensor, mean_context: Tensor, context: torch.nn.Linear, gate: torch.nn.Linear | None) -> Tensor:
    """`normalise(g * v + (1 - g) * c)` with `c = Linear(mean context)`; `normalise(c)` without a gate."""
    fused = linear(mean_context, context)
    if gate is not None:
        share = torch.sigmoid(linear(torch.cat([pooled, fused]), gate))
        fused = share * pooled + (1 - share) * fused
    return fused / fused.norm()


def best_match(query: Tensor, context: Tensor) -> Tensor:
    """Cosine of a query (D,) with the most similar of the context vectors (T, D)."""
    return max((cosine(query, vector) for vector in context), key=Tensor.item)


def log_mean_exp(values: Tensor, scale: float) -> Tensor:
    """`log(mean(exp(scale * v))) / scale`."""
    return sum((scale * value).exp() for value in values).div(len(values)).log() / scale


def top_k_mean(values: Tensor, k: int) -> Tensor:
    """Mean of the k largest values, or of all."""
    return sum(sorted(values, key=Tensor.item)[-k:]) / min(k, len(values))


def weighted_mean(values: Tensor, vectors: Tensor, salience: Tensor) -> Tensor:
    """Mean with the weights `exp(salience . vector)`, for values (T,) of vectors (T, D)."""
    weights = [torch.dot(salience, vector).exp() for vector in vectors]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
