"""Attention between all pairs; `test_scoring.py` and `test_fusion.py` hold scores and gradients made of it."""

import torch
from tests.reference import scoring as naive
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.models.similarity.attention import (
    AttentionSettings,
    attend_both_ways,
    attend_over_regions,
    attend_over_words,
    mean_similarity,
)
from ascl_lightning.models.similarity.tokens import TokenSet, token_set

ATTENTION = AttentionSettings(num_heads=2, image_to_text_scale=4.0, text_to_image_scale=9.0)


def make_items(num_items: int, num_tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = F.normalize(torch.randn(num_items, num_tokens, 4, generator=generator, dtype=torch.float64), dim=-1)
    mask = torch.rand(num_items, num_tokens, generator=generator) < 0.7
    mask[:, 0] = True
    return tokens, mask


def mean_context(tokens: TokenSet, shares: Tensor) -> Tensor:
    """The mean attended vectors (B, A, D) that follow from shares."""
    return torch.cat([share @ head for share, head in zip(shares.chunk(2, -1), tokens.heads, strict=True)], -1)


def test_shares_give_the_mean_attended_vectors() -> None:
    regions, region_mask = make_items(2, 3, seed=0)
    words, word_mask = make_items(3, 4, seed=1)
    images, texts = token_set(regions, region_mask, 2), token_set(words, word_mask, 2)
    over_words, over_regions = attend_both_ways(images, texts, ATTENTION, shares=True)
    of_words, of_regions = mean_context(texts, over_words.shares), mean_context(images, over_regions.shares)
    for i in range(2):
        for j in range(3):
            image, text = regions[i][region_mask[i]], words[j][word_mask[j]]
            torch.testing.assert_close(of_words[j, i], naive.mean_attended(image, text, 2, 4.0))
            torch.testing.assert_close(of_regions[i, j], naive.mean_attended(text, image, 2, 9.0))


def test_single_directions_equal_those_of_both() -> None:
    images = token_set(*make_items(2, 3, seed=2), 2)
    texts = token_set(*make_items(3, 4, seed=3), 2)
    over_words, over_regions = attend_both_ways(images, texts, ATTENTION, shares=True)
    for one, half in (
        (attend_over_words(images, texts, ATTENTION, shares=True), over_words),
        (attend_over_regions(images, texts, ATTENTION, shares=True), over_regions),
    ):
        assert torch.equal(one.similarity, half.similarity)
        assert torch.equal(one.shares, half.shares)
    plain = attend_over_words(images, texts, ATTENTION)
    assert plain.shares is None
    assert plain.cosines is None
    assert torch.equal(
        mean_similarity(over_words, over_regions), (over_words.similarity.T + over_regions.similarity) / 2
    )


def test_gradcheck_of_scores_shares_and_cosines_together_and_apart() -> None:
    """More than 2 * width tokens take another path; masked tokens get no gradient; gradients reach norms of queries."""
    (regions, region_mask), (words, word_mask) = make_items(2, 5, seed=4), make_items(2, 3, seed=5)
    regions, words = regions.requires_grad_(), (1.5 * words).requires_grad_()

    def attend(regions: Tensor, words: Tensor) -> list[Tensor]:
        images, texts = token_set(regions, region_mask, 2), token_set(words, word_mask, 2)
        over_words, over_regions = attend_both_ways(images, texts, ATTENTION, shares=True, cosines=True)
        return [*over_words, *over_regions]

    assert torch.autograd.gradcheck(attend, (regions, words))
    for kept in range(6):
        assert torch.autograd.gradcheck(lambda r, w, kept=kept: attend(r, w)[kept], (regions, words))


def test_the_wide_and_the_narrow_product_agree() -> None:
    """Five tokens have no Gram matrix in heads of width 2, and have one in heads of width 4."""
    (regions, region_mask), (words, word_mask) = make_items(2, 5, seed=6), make_items(2, 5, seed=7)
    for num_heads in (1, 2):
        attention = AttentionSettings(num_heads, 4.0, 9.0)
        images, texts = token_set(regions, region_mask, num_heads), token_set(words, word_mask, num_heads)
        scores = attend_over_regions(images, texts, attention).similarity
        expected = naive.direction_similarity(words[1][word_mask[1]], regions[0][region_mask[0]], num_heads, 9.0)
        torch.testing.assert_close(scores[0, 1], expected)
