"""Naive scores of docs/method.md#cross-modal-fusion, with every attended vector; time and memory of a call."""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.models.similarity.context_fusion import ContextFusion
from ascl_lightning.models.similarity.fused import FusedSimilarity


def published_loop(similarity: FusedSimilarity, images: Features, texts: Features) -> Tensor:
    """Scores one text at a time, without its padding, against all images, as the published code does."""
    columns = []
    for text in range(len(texts.mask)):
        words = texts.tokens[text, texts.mask[text]][None]
        one = Features(texts.pooled[text : text + 1], words, words.new_ones(words.shape[:2], dtype=torch.bool))
        columns.append(plain_scores(similarity, images, one))
    return torch.cat(columns, dim=1)


def plain_scores(similarity: FusedSimilarity, images: Features, texts: Features) -> Tensor:
    """Scores of all pairs at once, (N, M)."""
    attention = similarity.attention
    regions, region_mask = images.tokens[:, None], images.mask[:, None]
    words, word_mask = texts.tokens[None], texts.mask[None]
    of_words = _attend(regions, words, word_mask, attention.num_heads, attention.image_to_text_scale)
    of_regions = _attend(words, regions, region_mask, attention.num_heads, attention.text_to_image_scale)
    image_to_text = _mean(F.cosine_similarity(regions, of_words, dim=-1)[..., None], region_mask)
    text_to_image = _mean(F.cosine_similarity(words, of_regions, dim=-1)[..., None], word_mask)
    local = (image_to_text + text_to_image)[..., 0] / 2
    if similarity.global_fusion == "none":
        return local
    image_vectors = _fuse(similarity.image_fusion, images.pooled[:, None], _mean(of_regions, word_mask))
    text_vectors = _fuse(similarity.text_fusion, texts.pooled[None], _mean(of_words, region_mask))
    overall = (image_vectors * text_vectors).sum(-1)
    return similarity.local_weight * local + (1 - similarity.local_weight) * overall


def random_features(num_items: int, num_tokens: int, shortest: int, width: int, seed: int) -> Features:
    """Random normalised tokens, `shortest` to `num_tokens` per item."""
    generator = torch.Generator().manual_seed(seed)
    tokens = F.normalize(torch.randn(num_items, num_tokens, width, generator=generator), dim=-1)
    lengths = torch.randint(shortest, num_tokens + 1, (num_items,), generator=generator)
    pooled = torch.randn(num_items, width, generator=generator)
    return Features(pooled, tokens, torch.arange(num_tokens) < lengths[:, None])


def double(features: Features) -> Features:
    """The same features in float64."""
    return Features(features.pooled.double(), features.tokens.double(), features.mask)


def measure(run: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Median seconds of some runs, and the largest growth of this process's memory in MiB during the first (Linux)."""
    give_back_memory()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            growth = (_status("VmHWM") - before) / 1024
    return median(seconds), growth


def give_back_memory() -> None:
    """Returns freed memory to the system, so that it does not hide later growth."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(field: str) -> int:
    """A memory figure of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _attend(queries: Tensor, context: Tensor, mask: Tensor, num_heads: int, scale: float) -> Tensor:
    """What queries (..., Q, D) receive from tokens (..., T, D) by attention, heads concatenated."""
    split = (num_heads, queries.shape[-1] // num_heads)
    queries, context = (tokens.unflatten(-1, split).transpose(-3, -2) for tokens in (queries, context))
    logits = (scale * queries @ context.mT).masked_fill(~mask[..., None, None, :], -torch.inf)
    return (torch.softmax(logits, dim=-1) @ context).transpose(-3, -2).flatten(-2)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over unpadded tokens, (..., T, D) to (..., D)."""
    return (values * mask[..., None]).sum(-2) / mask.sum(-1, keepdim=True)


def _fuse(fusion: ContextFusion, pooled: Tensor, mean_context: Tensor) -> Tensor:
    """A global vector fused with its context, normalised."""
    context = fusion.context(mean_context)
    if fusion.gate is not None:
        gate = torch.sigmoid(fusion.gate(torch.cat([pooled.expand_as(context), context], dim=-1)))
        context = gate * pooled + (1 - gate) * context
    return F.normalize(context, dim=-1)
