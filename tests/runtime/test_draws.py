import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ascl_lightning.runtime.draws import Series, keyed_normal, keyed_rng, keyed_uniform, sampling_key


def test_series_of_one_key_are_numpys_own_and_differ() -> None:
    """Earlier versions used these numbers."""
    assert keyed_rng(3, 1, 7, Series.CAPTION).integers(10**9) == np.random.default_rng([3, 1, 7, 4]).integers(10**9)
    drawn = {keyed_rng(3, 1, 7, series).integers(10**9) for series in Series}
    assert len(drawn) == len(Series) == 14
    # trailing zeros are padding
    assert 0 not in Series.__members__.values()
    assert keyed_rng(3, 1).integers(10**9) == keyed_rng(3, 1, 0).integers(10**9)


def splitmix64(state: int, count: int) -> list[int]:
    """The published generator in Python integers."""
    numbers = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
        numbers.append(mixed ^ (mixed >> 31))
    return numbers


def test_the_reference_generator_gives_its_published_numbers() -> None:
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(key=st.integers(-(2**63), 2**63 - 1), stream=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_uniform_is_splitmix64(key: int, stream: int) -> None:
    step = 0x9E3779B97F4A7C15
    start = splitmix64((key + stream * step) % 2**64, 1)[0]
    expected = [number >> 40 for number in splitmix64(start, 6)]
    numbers = keyed_uniform(torch.tensor([key]), (2, 3), stream) * 2**24
    assert numbers.flatten().tolist() == expected


def test_uniform_fills_the_unit_interval_evenly() -> None:
    numbers = keyed_uniform(torch.arange(200), (1000,), 1).double()
    count = numbers.numel()
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    # five standard errors each: variances of u, (u - 1/2)^2 and of a bin's count
    assert abs(numbers.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / count)
    assert abs(numbers.var() - 1 / 12) < 5 * math.sqrt((1 / 80 - 1 / 144) / count)
    bins = torch.histc(numbers, 20, 0, 1)
    assert ((bins - count / 20).abs() < 5 * math.sqrt(count * 0.05 * 0.95)).all()


def test_normal_has_the_moments_of_a_standard_normal() -> None:
    numbers = keyed_normal(torch.arange(200), (1000,), 1).double()
    count = numbers.numel()
    # E z^2k = 1, 3, 15, 105 for k = 1 to 4
    assert abs(numbers.mean()) < 5 * math.sqrt(1 / count)
    assert abs(numbers.square().mean() - 1) < 5 * math.sqrt(2 / count)
    assert abs((numbers**3).mean()) < 5 * math.sqrt(15 / count)
    assert abs((numbers**4).mean() - 3) < 5 * math.sqrt((105 - 9) / count)
    assert abs((numbers.abs() < 1).double().mean() - 0.6827) < 5 * math.sqrt(0.6827 * 0.3173 / count)
    assert numbers.isfinite().all()


@pytest.mark.parametrize("draw", [keyed_uniform, keyed_normal])
def test_neighbouring_keys_streams_and_positions_are_uncorrelated(draw: object) -> None:
    keys = torch.arange(300)
    base, other_stream = draw(keys, (300,), 1), draw(keys, (300,), 2)
    next_key = draw(keys + 1, (300,), 1)
    limit = 5 / math.sqrt(base.numel() - 300)
    for first, second in ((base, other_stream), (base, next_key), (base[:, 1:], base[:, :-1]), (base[1:], base[:-1])):
        assert not torch.equal(first, second)
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1]
        assert abs(correlation) < limit


@pytest.mark.parametrize("draw", [keyed_uniform, keyed_normal])
def test_draws_depend_only_on_key_and_position(draw: object) -> None:
    keys = torch.randint(-(2**62), 2**62, (37,))
    whole = draw(keys, (5, 7), 3)
    assert torch.equal(torch.cat([draw(part, (5, 7), 3) for part in keys.split(10)]), whole)
    assert torch.equal(draw(keys, (9, 7), 3)[:, :5], whole)  # more padding
    assert torch.equal(draw(keys.flip(0), (5, 7), 3).flip(0), whole)
    assert draw(keys, (), 3).shape == (37,)
    assert draw(keys[:0], (5, 7), 3).shape == (0, 5, 7)


def reference_key(seed: int, epoch: int, index: int) -> int:
    """SplitMix64 folded over the parts, in numpy's wrapping arithmetic."""
    state = np.zeros(1, dtype=np.uint64)
    for part in (seed, epoch, index):
        z = (state ^ np.array([part], dtype=np.uint64)) + np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.array([0xBF58476D1CE4E5B9], dtype=np.uint64)
        z = (z ^ (z >> np.uint64(27))) * np.array([0x94D049BB133111EB], dtype=np.uint64)
        state = z ^ (z >> np.uint64(31))
    return int(state.view(np.int64)[0])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 1000), st.integers(0, 2**40))
def test_sampling_key_equals_the_reference(seed: int, epoch: int, index: int) -> None:
    key = sampling_key(seed, epoch, index)
    assert key == reference_key(seed, epoch, index)
    assert torch.tensor(key).item() == key


@settings(max_examples=50, deadline=None)
@given(*[st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))] * 2)
def test_sampling_keys_of_different_rows_differ(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assume(one != other)
    assert sampling_key(*one) != sampling_key(*other)


def test_sampling_keys_use_every_bit_evenly() -> None:
    keys = np.array([sampling_key(0, 0, index) for index in range(2000)], dtype=np.int64)
    bits = (keys[:, None] >> np.arange(64)) & 1
    assert np.abs(bits.sum(axis=0) - 1000).max() < 5 * (2000 * 0.25) ** 0.5
