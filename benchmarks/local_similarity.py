"""Local similarity of 128 images and 128 texts: ours against the published loop, one text at a time.

36 regions, up to 24 words, D = 1024, normalised tokens. Prints both times and the ratio, for 8 heads and for 1, and the
largest difference from the loop in float64.
"""

import time

import torch
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.models.scoring import local_similarity

PAIRS, REGIONS, WORDS, WIDTH = 128, 36, 24, 1024
IMAGE_TO_TEXT_SCALE, TEXT_TO_IMAGE_SCALE = 4.0, 9.0


def attend(queries: Tensor, context: Tensor, num_heads: int, scale: float) -> Tensor:
    """Attended context of (N, Q, D) queries over (N, T, D) tokens, heads side by side (METHOD section 3)."""
    split = (num_heads, WIDTH // num_heads)
    queries, context = (tokens.unflatten(-1, split).transpose(1, 2) for tokens in (queries, context))
    weights = torch.softmax(scale * queries @ context.mT, dim=-1)
    return (weights @ context).transpose(1, 2).flatten(2)


def loop(images: Tensor, texts: Tensor, lengths: Tensor, num_heads: int) -> Tensor:
    """One text at a time against all images, every attended vector written out."""
    columns = []
    for text, length in zip(texts, lengths.tolist(), strict=True):
        words = text[:length].expand(len(images), -1, -1)
        regions_to_words = F.cosine_similarity(images, attend(images, words, num_heads, IMAGE_TO_TEXT_SCALE), dim=-1)
        words_to_regions = F.cosine_similarity(words, attend(words, images, num_heads, TEXT_TO_IMAGE_SCALE), dim=-1)
        columns.append((regions_to_words.mean(1) + words_to_regions.mean(1)) / 2)
    return torch.stack(columns, dim=1)


@torch.no_grad()
def main() -> None:
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(PAIRS, REGIONS, WIDTH, generator=generator), dim=-1)
    texts = F.normalize(torch.randn(PAIRS, WORDS, WIDTH, generator=generator), dim=-1)
    lengths = torch.randint(8, WORDS + 1, (PAIRS,), generator=generator)
    mask = torch.arange(WORDS) < lengths[:, None]
    for num_heads in (8, 1):
        local_similarity(images[:8], texts[:8], mask[:8], num_heads=num_heads)
        start = time.perf_counter()
        ours = local_similarity(images, texts, mask, num_heads=num_heads)
        our_seconds = time.perf_counter() - start
        start = time.perf_counter()
        loop(images, texts, lengths, num_heads)
        loop_seconds = time.perf_counter() - start
        exact = loop(images.double(), texts.double(), lengths, num_heads)
        print(f"{num_heads} heads: loop {loop_seconds:.3f} s, ours {our_seconds:.3f} s, ", end="")
        print(f"largest difference {(ours - exact).abs().max():.1e}, ratio {loop_seconds / our_seconds:.1f}")


if __name__ == "__main__":
    main()
