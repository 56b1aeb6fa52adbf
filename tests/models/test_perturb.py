import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascl_lightning.data.batch import Features
from ascl_lightning.models.perturb import (
    FeatureDropout,
    GaussianNoise,
    PerturbWords,
    ZeroOut,
    keyed_normal,
    keyed_uniform,
)

MASK_64 = 2**64 - 1


def mix(state: int) -> int:
    """SplitMix64's finaliser on plain integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK_64
    return state ^ (state >> 31)


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63), 123_456_789])
def test_uniform_numbers_are_those_of_the_hash_on_plain_integers(key):
    got = keyed_uniform(torch.tensor([key]), 3, stream=2)[0].tolist()
    row = mix((mix(key & MASK_64) + 2) & MASK_64)
    words = [mix((row + position * 0x9E3779B97F4A7C15) & MASK_64) for position in (1, 2, 3)]
    assert got == [(((word >> 40) & (2**23 - 1)) + 0.5) / 2**23 for word in words]


def test_moments_of_the_draws():
    # 200,000 numbers: the mean of uniforms has a deviation of 6.5e-4, that of normals 2.2e-3; bounds are five of them
    keys = torch.arange(200)
    uniform, normal = keyed_uniform(keys, 1000, 0), keyed_normal(keys, 1000, 0)
    assert abs(uniform.mean() - 0.5) < 3.3e-3
    assert abs(uniform.var() - 1 / 12) < 1e-3
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert abs(normal.mean()) < 1.2e-2
    assert abs(normal.var() - 1) < 1.6e-2
    assert abs((normal**4).mean() - 3) < 0.12
    # neither neighbouring positions nor neighbouring keys know of each other
    for first, second in ((normal[:, 1:], normal[:, :-1]), (normal[1:], normal[:-1])):
        assert abs((first * second).mean()) < 1.2e-2
    assert abs((keyed_normal(keys, 1000, 1) * normal).mean()) < 1.2e-2


def batch(lengths: list[int], width: int = 6, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randn(*mask.shape, width, generator=generator)
    return Features(torch.randn(len(lengths), width, generator=generator), tokens, mask)


@pytest.mark.parametrize("operation", [GaussianNoise(), FeatureDropout(), ZeroOut()])
@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(-(2**63), 2**63 - 10))
def test_a_row_is_the_same_alone_and_padding_is_untouched(operation, lengths, key):
    texts, keys = batch(lengths), torch.arange(len(lengths)) + key
    perturb = PerturbWords([operation])
    together, valid = perturb(texts, keys)
    assert torch.equal(together.tokens[~texts.mask], texts.tokens[~texts.mask])
    assert together.mask is texts.mask
    for row, length in enumerate(lengths):
        fields = texts.pooled, texts.tokens[:, :length], texts.mask[:, :length]
        single = Features(*(field[row : row + 1] for field in fields))
        alone, alone_valid = perturb(single, keys[row : row + 1])
        assert torch.equal(alone.tokens[0], together.tokens[row, :length])
        assert torch.equal(alone.pooled[0], together.pooled[row])
        assert alone_valid.item() == valid[row].item()


def test_noise_is_standard_normal_on_words_and_the_global_vector():
    texts = batch([7] * 300, width=16)
    perturbed, valid = PerturbWords([GaussianNoise()])(texts, torch.arange(300))
    for noise in (perturbed.tokens - texts.tokens, perturbed.pooled - texts.pooled):
        bound = 5 / noise.numel() ** 0.5
        assert abs(noise.mean()) < bound
        assert abs(noise.var() - 1) < 1.5 * bound
    assert valid.all()


def test_dropout_zeroes_half_and_doubles_the_rest():
    texts = batch([9] * 100, width=16)
    perturbed, _ = PerturbWords([FeatureDropout()])(texts, torch.arange(100))
    zero = perturbed.tokens == 0
    torch.testing.assert_close(perturbed.tokens[~zero], 2 * texts.tokens[~zero])
    assert abs(zero.float().mean() - 0.5) < 2.5 / zero.numel() ** 0.5


def test_zero_out_takes_one_word_or_one_dimension():
    texts = batch([3, 5] * 200, width=4)
    perturbed, valid = PerturbWords([ZeroOut()])(texts, torch.arange(400))
    assert valid.all()
    words = dimensions = 0
    hit = set()
    for row in range(400):
        real = texts.mask[row]
        zero = (perturbed.tokens[row] == 0)[real]
        assert torch.equal(perturbed.tokens[row][real][~zero], texts.tokens[row][real][~zero])
        if zero.all(1).any():
            assert zero.all(1).sum() == 1
            assert zero.sum() == 4
            assert torch.equal(perturbed.pooled[row], texts.pooled[row])
            words += 1
            hit.add((len(zero), int(zero.all(1).nonzero())))
        else:
            assert zero.all(0).sum() == 1
            assert zero.sum() == len(zero)
            assert (perturbed.pooled[row] == 0).sum() == 1
            dimensions += 1
    assert words + dimensions == 400
    assert 150 < words < 250  # five deviations of a fair coin
    assert hit == {(length, place) for length in (3, 5) for place in range(length)}


def test_what_no_draw_changes_is_not_valid():
    texts = batch([2, 2])
    texts.tokens[0] = texts.pooled[0] = 0
    perturb = PerturbWords([ZeroOut(), FeatureDropout()])
    _, valid = perturb(texts, torch.tensor([1, 2]))
    assert valid.tolist() == [False, True]


def test_operations_come_by_their_shares():
    texts = batch([2] * 1000)
    perturbed, _ = PerturbWords([GaussianNoise(probability=3.0), ZeroOut()])(texts, torch.arange(1000))
    zeroed = (perturbed.tokens == 0).flatten(1).any(1).sum().item()
    assert 180 < zeroed < 320  # a quarter, five deviations of 13.7


def test_gradients_reach_the_words():
    texts = batch([3, 2])
    texts.tokens.requires_grad_()
    perturbed, _ = PerturbWords()(texts, torch.tensor([5, 6]))
    perturbed.tokens.sum().backward()
    assert texts.tokens.grad is not None
    assert texts.tokens.grad.abs().sum() > 0


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match="at least one operation"):
        PerturbWords([])
    with pytest.raises(ValueError, match="positive"):
        GaussianNoise(probability=0.0)
