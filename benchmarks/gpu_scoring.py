"""Scoring on a GPU: the kernels against float64, their speed, and a score matrix of the size of COCO 5K."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from plain import double, published_loop, random_features
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.local import local_similarity

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REGIONS, WORDS, WIDTH, HEADS = 36, 24, 1024, 8
USEFUL_FLOPS = 2 * REGIONS * WORDS * WIDTH + 2 * HEADS * (REGIONS * REGIONS * WORDS + REGIONS * WORDS * WORDS)
"""Operations of the local score of a pair without padding: dot products, and both products with Gram matrices."""


def accuracy(small: bool) -> Iterator[dict]:
    """Largest errors of scores and gradients against float64 in torch, on tokens rounded to each dtype."""
    count, width, heads = (3, 64, 2) if small else (48, WIDTH, HEADS)
    for name, dtype in DTYPES.items():
        images, texts = _items(count, count + 1, width, dtype)
        direction = torch.randn(count, count + 1, generator=torch.Generator().manual_seed(2)).to(DEVICE)
        ours = _score_and_gradients(images, texts, heads, direction)
        with kernels(on=False):
            exact = _score_and_gradients(double(images), double(texts), heads, direction.double())
        yield {"name": f"local, {name}"} | {
            what: f"{_error(mine, theirs):.1e}"
            for what, mine, theirs in zip(("scores", "of_regions", "of_words"), ours, exact, strict=True)
        }


def speed(small: bool) -> Iterator[dict]:
    """Time and memory of 128 x 128 pairs: kernels, torch in tiles and the published loop; then of a training step."""
    count, width, heads = (4, 64, 2) if small else (128, WIDTH, HEADS)
    for name in ("float32", "bfloat16"):
        images, texts = _items(count, count, width, DTYPES[name])
        local = lambda: _local(images, texts, heads)  # noqa: E731, B023
        figures = {"kernels": _measure(local)}
        with kernels(on=False):
            figures["torch"] = _measure(local)
        similarity = FusedSimilarity(width, heads, local_weight=1.0, global_fusion="none").to(DEVICE)
        figures["loop"] = _measure(lambda: published_loop(similarity, images, texts), repeats=2)  # noqa: B023
        yield _row(f"local forward, {name}", figures)
        leaves = [items.tokens.detach().requires_grad_() for items in (images, texts)]

        def step() -> None:
            scores = _local(*(Features(i.pooled, t, i.mask) for i, t in zip((images, texts), leaves)), heads)  # noqa: B023, B905
            torch.autograd.grad(scores.sum(), leaves)  # noqa: B023

        figures = {"kernels": _measure(step)}
        with kernels(on=False):
            figures["torch"] = _measure(step)
        yield _row(f"local forward + backward, {name}", figures)


def coco(small: bool) -> Iterator[dict]:
    """5,000 images x 25,000 texts, local and fused; the achieved FLOP/s and those of a large matrix product."""
    num_images, num_texts, width, heads = (20, 60, 64, 2) if small else (5000, 25000, WIDTH, HEADS)
    for name in ("float32", "bfloat16"):
        yield {
            "name": f"8192^3 product, {name}",
            "tflops": round(_product_rate(DTYPES[name], 64 if small else 8192), 1),
        }
    for name, what in (("bfloat16", "local"), ("bfloat16", "fused"), ("float32", "fused")):
        images, texts = _items(num_images, num_texts, width, DTYPES[name], on_device=True)
        local_weight, fusion = (1.0, "none") if what == "local" else (0.8, "pairwise")
        similarity = FusedSimilarity(width, heads, local_weight, global_fusion=fusion).to(DEVICE)
        with torch.no_grad():
            seconds, memory = _measure(lambda: similarity(images, texts), repeats=1, warm=False)  # noqa: B023
        figure = {"seconds": round(seconds, 2), "mib": round(memory)}
        if what == "local":
            figure["useful_tflops"] = round(USEFUL_FLOPS * num_images * num_texts / seconds / 1e12, 1)
        yield {"name": f"{num_images:,} x {num_texts:,} {what}, {name}"} | figure


@contextmanager
def kernels(*, on: bool) -> Iterator[None]:
    before = os.environ.get("ASCL_KERNELS")
    os.environ["ASCL_KERNELS"] = "1" if on else "0"
    yield
    os.environ["ASCL_KERNELS"] = before or "1"


def _items(
    num_images: int, num_texts: int, width: int, dtype: torch.dtype, *, on_device: bool = False
) -> tuple[Features, Features]:
    if on_device:
        return _drawn(num_images, REGIONS, REGIONS, width, dtype), _drawn(num_texts, WORDS, 8, width, dtype)
    images = random_features(num_images, REGIONS, REGIONS, width, seed=0)
    texts = random_features(num_texts, WORDS, 8, width, seed=1)
    return _to(images, dtype), _to(texts, dtype)


def _drawn(count: int, tokens: int, shortest: int, width: int, dtype: torch.dtype) -> Features:
    """Like `random_features`, but drawn on the device."""
    values = torch.randn(count, tokens, width, device=DEVICE, dtype=dtype)
    values /= values.norm(dim=-1, keepdim=True)
    lengths = torch.randint(shortest, tokens + 1, (count, 1), device=DEVICE)
    return Features(torch.randn(count, width, device=DEVICE), values, torch.arange(tokens, device=DEVICE) < lengths)


def _to(items: Features, dtype: torch.dtype) -> Features:
    return Features(items.pooled.to(DEVICE), items.tokens.to(DEVICE, dtype), items.mask.to(DEVICE))


def _local(images: Features, texts: Features, heads: int) -> Tensor:
    return local_similarity(images.tokens, texts.tokens, texts.mask, image_mask=images.mask, num_heads=heads)


def _score_and_gradients(images: Features, texts: Features, heads: int, direction: Tensor) -> tuple[Tensor, ...]:
    leaves = [items.tokens.detach().clone().requires_grad_() for items in (images, texts)]
    scores = local_similarity(*leaves, texts.mask, image_mask=images.mask, num_heads=heads)
    return scores.detach(), *torch.autograd.grad((scores * direction).sum(), leaves)


def _error(ours: Tensor, exact: Tensor) -> float:
    """Largest difference, divided by the largest magnitude."""
    return float((ours.double() - exact).abs().max() / exact.abs().max())


def _row(name: str, figures: dict[str, tuple[float, float]]) -> dict:
    ours = figures["kernels"][0]
    row = {"name": name}
    for side, (seconds, memory) in figures.items():
        row |= {f"{side}_ms": round(1000 * seconds, 2), f"{side}_mib": round(memory)}
    return row | {f"ratio_to_{side}": round(figures[side][0] / ours, 1) for side in figures if side != "kernels"}


def _measure(run: Callable[[], object], repeats: int = 5, *, warm: bool = True) -> tuple[float, float]:
    """Median seconds, and the largest growth of GPU memory in MiB."""
    if DEVICE.type != "cuda":
        from plain import measure

        return measure(run, repeats=1)
    if warm:
        run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, seconds = torch.cuda.memory_allocated(), []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return sorted(seconds)[len(seconds) // 2], (torch.cuda.max_memory_allocated() - before) / 2**20


def _product_rate(dtype: torch.dtype, size: int) -> float:
    first, second = torch.randn(2, size, size, device=DEVICE).to(dtype)
    seconds, _ = _measure(lambda: first @ second)
    return 2 * size**3 / seconds / 1e12
