import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.models.perturb import (
    FeatureDropout,
    GaussianNoise,
    PerturbWords,
    WordPerturbation,
    ZeroOut,
)

OPERATIONS = [GaussianNoise(), FeatureDropout(), ZeroOut()]


def make_texts(num_texts: int, length: int = 6, dim: int = 8, seed: int = 0) -> Features:
    """Random words, at least one per text, and masks with gaps."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_texts, length, generator=generator) < 0.6
    mask[:, 0] |= ~mask.any(1)
    tokens = torch.randn(num_texts, length, dim, generator=generator)
    return Features(torch.randn(num_texts, dim, generator=generator), tokens, mask)


def test_gaussian_noise_has_the_given_deviation() -> None:
    texts = make_texts(200, 20, 16)
    noisy = GaussianNoise(std=2.0)(texts, torch.arange(200))
    for noise in (noisy.tokens - texts.tokens, noisy.pooled - texts.pooled):
        count = noise.numel()
        assert abs(noise.mean()) < 5 * 2 / math.sqrt(count)
        assert abs(noise.square().mean() - 4) < 5 * 4 * math.sqrt(2 / count)
    noise = GaussianNoise()(Features(torch.zeros(3, 8), torch.zeros(3, 2, 8), texts.mask[:3, :2]), torch.arange(3))
    assert not (noise.tokens[:, 0] == noise.pooled).any()


def test_feature_dropout_drops_a_share_and_scales_the_rest() -> None:
    texts = make_texts(200, 20, 16)
    dropped = FeatureDropout(p=0.2)(texts, torch.arange(200))
    for before, after in ((texts.tokens, dropped.tokens), (texts.pooled, dropped.pooled)):
        zero = after == 0
        assert abs(zero.double().mean() - 0.2) < 5 * math.sqrt(0.2 * 0.8 / zero.numel())
        torch.testing.assert_close(after[~zero], before[~zero] / 0.8)


def test_zero_out_zeroes_a_word_or_a_dimension_equally_often() -> None:
    texts = make_texts(2000, 5, 4)
    zeroed = ZeroOut()(texts, torch.arange(2000))
    zero = (zeroed.tokens == 0) & texts.mask[..., None]
    words, dims = zero.all(2), (zero | ~texts.mask[..., None]).all(1)
    pooled = zeroed.pooled == 0
    # zeroing one dimension of a single word leaves no zero word, and the reverse
    is_word = words.any(1)
    assert (words.sum(1)[is_word] == 1).all()
    assert (dims.sum(1)[~is_word] == 1).all()
    assert torch.equal(zero.sum((1, 2))[is_word], torch.full_like(zero.sum((1, 2))[is_word], 4))
    assert torch.equal(zero.sum((1, 2))[~is_word], texts.mask.sum(1)[~is_word])
    assert not pooled[is_word].any()
    assert torch.equal(pooled[~is_word], dims[~is_word])
    assert abs(is_word.double().mean() - 0.5) < 5 * 0.5 / math.sqrt(2000)
    # each word of the texts with 3 words, and each dimension, equally often
    three = is_word & (texts.mask.sum(1) == 3)
    rank = (texts.mask.cumsum(1) - 1)[three][words[three]]
    assert (rank.bincount(minlength=3) - three.sum() / 3).abs().max() < 5 * math.sqrt(three.sum() * 2 / 9)
    counts = dims[~is_word].sum(0)
    assert (counts - counts.sum() / 4).abs().max() < 5 * math.sqrt(counts.sum() * 3 / 16)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_only_words_change(operation: WordPerturbation) -> None:
    texts = make_texts(50)
    texts.tokens[~texts.mask] = float("nan")
    negatives, valid = PerturbWords([operation])(texts, torch.arange(50))
    assert torch.equal(negatives.mask, texts.mask)
    assert negatives.tokens[~texts.mask].isnan().all()
    assert valid.all()
    changed = (negatives.tokens != texts.tokens) & texts.mask[..., None]
    assert changed.flatten(1).any(1).all()
    assert negatives.tokens[texts.mask].isfinite().all()


@given(split=st.integers(1, 23), padding=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_splitting_and_padding_a_batch_change_nothing(split: int, padding: int) -> None:
    texts, keys = make_texts(23), torch.arange(23) * 7919
    perturb = PerturbWords()
    whole, _ = perturb(texts, keys)

    def part(rows: slice) -> Features:
        tokens = torch.nn.functional.pad(texts.tokens[rows], (0, 0, 0, padding))
        mask = torch.nn.functional.pad(texts.mask[rows], (0, padding))
        return perturb(Features(texts.pooled[rows], tokens, mask), keys[rows])[0]

    parts = [part(slice(start, start + split)) for start in range(0, 23, split)]
    assert torch.equal(torch.cat([negatives.pooled for negatives in parts]), whole.pooled)
    assert torch.equal(torch.cat([negatives.tokens for negatives in parts])[:, :6], whole.tokens)


def test_operations_are_drawn_by_probability_and_do_not_affect_each_other() -> None:
    texts, keys = make_texts(4000, 3, 2), torch.arange(4000)
    operations = [GaussianNoise(probability=1.0), ZeroOut(probability=3.0)]
    negatives, _ = PerturbWords(operations)(texts, keys)
    alone = [PerturbWords([operation])(texts, keys)[0] for operation in operations]

    def equals(other: Features) -> Tensor:
        return (negatives.tokens == other.tokens).flatten(1).all(1) & (negatives.pooled == other.pooled).all(1)

    noisy, zeroed = equals(alone[0]), equals(alone[1])
    assert torch.equal(noisy, ~zeroed)
    assert abs(noisy.double().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)


def test_equal_keys_give_equal_perturbations() -> None:
    texts = make_texts(1)
    many = Features(texts.pooled.expand(20, -1), texts.tokens.expand(20, -1, -1), texts.mask.expand(20, -1))
    same, _ = PerturbWords()(many, torch.full((20,), 5))
    assert (same.tokens == same.tokens[:1]).all()
    different, _ = PerturbWords([GaussianNoise()])(many, torch.arange(20))
    assert len(different.tokens.flatten(1).unique(dim=0)) == 20


def test_a_negative_that_equals_its_text_is_not_valid() -> None:
    texts = make_texts(4)
    texts.tokens[1] = 0  # nothing left to zero
    texts.mask[2] = False  # no words
    texts.tokens[~texts.mask] = float("nan")
    _, valid = PerturbWords([ZeroOut()])(texts, torch.arange(4))
    assert valid.tolist() == [True, False, False, True]
    _, valid = PerturbWords([GaussianNoise(std=0.0)])(texts, torch.arange(4))
    assert not valid.any()


def test_gradients_reach_the_words() -> None:
    texts = make_texts(30)
    texts.tokens.requires_grad_()
    negatives, _ = PerturbWords([FeatureDropout(p=0.5)])(texts, torch.arange(30))
    (gradient,) = torch.autograd.grad(negatives.tokens.sum(), texts.tokens)
    kept = (negatives.tokens != 0) & texts.mask[..., None]
    torch.testing.assert_close(gradient, torch.where(texts.mask[..., None], 2.0 * kept, 1.0))


def test_half_precision_stays_half_precision() -> None:
    texts = make_texts(9)
    texts.tokens, texts.pooled = texts.tokens.bfloat16(), texts.pooled.bfloat16()
    negatives, _ = PerturbWords()(texts, torch.arange(9))
    assert negatives.tokens.dtype == negatives.pooled.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(probability=0.0), "probability of the word perturbation 'gaussian_noise' is 0.0"),
        (lambda: FeatureDropout(p=1.0), "p of the word perturbation 'feature_dropout' is 1.0"),
        (lambda: PerturbWords([]), "empty"),
    ],
)
def test_invalid_arguments_raise(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_it_has_no_state() -> None:
    assert not PerturbWords().state_dict()
