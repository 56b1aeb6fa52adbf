"""Cross-attention scores without gradients, against the published loop over texts.

128 x 128 pairs of 36 regions and 8 to 24 words, D = 1024; then 1,000 x 5,000 pairs of 16 tokens and 8 to 24 words, D =
256. Prints times, the largest difference from the loop in float64, peak memory, and the ratio of the times last.
"""

import torch
from plain import double, measure, published_loop, random_features

from ascl_lightning.models.similarity.fused import FusedSimilarity


def compare(name: str, num_heads: int, *, fused: bool) -> None:
    """Measures 128 x 128 pairs by our code and by the loop."""
    images, texts = random_features(128, 36, 36, 1024, seed=0), random_features(128, 24, 8, 1024, seed=1)
    similarity = _similarity(1024, num_heads, fused=fused)
    ours: list[torch.Tensor] = []
    our_seconds, our_memory = measure(lambda: ours.append(similarity(images, texts)))
    loop_seconds, loop_memory = measure(lambda: published_loop(similarity, images, texts))
    product_seconds, _ = measure(lambda: images.tokens.flatten(0, 1) @ texts.tokens[texts.mask].T)
    exact = published_loop(similarity.double(), double(images), double(texts))
    print(
        f"{name}: loop {loop_seconds:.3f} s, {loop_memory:.0f} MiB; ours {our_seconds:.3f} s, {our_memory:.0f} MiB; "
        f"largest difference {(ours[0] - exact).abs().max():.1e}, {our_seconds / product_seconds:.1f} times the matrix "
        f"product, memory {our_memory / loop_memory:.2f}, ratio {loop_seconds / our_seconds:.1f}"
    )


def compare_test_set() -> None:
    """Measures 1,000 x 5,000 pairs by our code, and the first 100 texts by the loop."""
    images, texts = random_features(1000, 16, 16, 256, seed=2), random_features(5000, 24, 8, 256, seed=3)
    similarity = _similarity(256, 4, fused=True)
    seconds, memory = measure(lambda: similarity(images, texts), repeats=1)
    part = type(texts)(texts.pooled[:100], texts.tokens[:100], texts.mask[:100])
    loop_seconds, _ = measure(lambda: published_loop(similarity, images, part))
    print(f"1,000 x 5,000 fused, 4 heads: {seconds:.1f} s, {memory:.0f} MiB, ratio {50 * loop_seconds / seconds:.1f}")


def _similarity(width: int, num_heads: int, *, fused: bool) -> FusedSimilarity:
    if not fused:
        return FusedSimilarity(width, num_heads, local_weight=1.0, global_fusion="none")
    torch.manual_seed(0)
    similarity = FusedSimilarity(width, num_heads)
    for parameter in similarity.parameters():
        torch.nn.init.normal_(parameter, std=width**-0.5)
    return similarity


@torch.no_grad()
def main() -> None:
    for num_heads in (8, 1):
        compare(f"local, {num_heads} heads", num_heads, fused=False)
        compare(f"fused, {num_heads} heads", num_heads, fused=True)
    compare_test_set()


if __name__ == "__main__":
    main()
