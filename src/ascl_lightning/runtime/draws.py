"""Random numbers keyed by values such as (seed, epoch, index): equal for any number of ranks and workers."""

import math
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): counter step and the two
# multipliers of the finaliser
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK_64 = 2**64 - 1


class Series(IntEnum):
    """Independent random series under one key: the last part of `keyed_rng`'s key.

    No member is 0: NumPy pads keys with zeros, so (seed, epoch, 0) equals (seed, epoch), the key of an epoch's order.
    """

    POSITIVE = 1
    NEGATIVE = 2
    POSITIVE_NEGATIVE = 3
    CAPTION = 4
    BUCKET = 5
    PART = 6
    SHARD = 7
    WINDOW = 8
    MIXING = 9
    VIEW = 10
    PICTURE = 1_000
    REPLACEMENT = 1_001
    STREAMED_PICTURE = 1_002
    PARTNER_PICTURE = 1_003


def keyed_rng(*key: int) -> np.random.Generator:
    """A NumPy generator for a key of non-negative integers, such as (seed, epoch, index, series).

    Example:
        >>> keyed_rng(0, 1, 2, Series.CAPTION).integers(100) == keyed_rng(0, 1, 2, Series.CAPTION).integers(100)
        np.True_
    """
    return np.random.default_rng(key)


def sampling_key(seed: int, epoch: int, index: int) -> int:
    """Hashes (seed, epoch, index) to the key of a row for `keyed_uniform`.

    Distinct indices under one seed and epoch have distinct keys, since every step is a bijection.

    Args:
        seed: The run's seed.
        epoch: The epoch.
        index: Row of the caption in its split.

    Returns:
        A signed 64-bit integer, as a torch tensor holds it.
    """
    state = 0
    for part in (seed, epoch, index):
        state = ((state ^ (part & _MASK_64)) + _STEP) & _MASK_64
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK_64
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK_64
        state ^= state >> 31
    return _signed(state)


def keyed_uniform(keys: Int[Tensor, " B"], shape: tuple[int, ...], stream: int) -> Float[Tensor, "B ..."]:
    """Uniform numbers in [0, 1) that depend only on key, stream and position.

    Positions are row-major, so a longer first axis (more padding) does not change the other numbers.

    Args:
        keys: Key of each sample, (B,).
        shape: Shape of a sample's numbers.
        stream: Number of an independent series under the key.

    Returns:
        Multiples of 2^-24 in float32, (B, *shape).
    """
    start = _mix(keys.long() + _signed((stream + 1) * _STEP))
    counter = torch.arange(1, math.prod(shape) + 1, device=keys.device) * _signed(_STEP)
    bits = _mix(start[:, None] + counter)
    return (_shift_right(bits, 40).float() * 2.0**-24).reshape(len(keys), *shape)


def keyed_normal(keys: Int[Tensor, " B"], shape: tuple[int, ...], stream: int) -> Float[Tensor, "B ..."]:
    """Standard normal numbers keyed like `keyed_uniform`, by the Box-Muller method.

    Computed in float64 if the device supports it: rounding to float32 then hides differences in the last bits of
    logarithms and cosines between devices.

    Returns:
        float32, (B, *shape).
    """
    precise = torch.float32 if keys.device.type == "mps" else torch.float64
    radius, angle = keyed_uniform(keys, (*shape, 2), stream).to(precise).unbind(-1)
    return (torch.sqrt(-2 * torch.log(1 - radius)) * torch.cos(2 * math.pi * angle)).float()


def _mix(bits: Tensor) -> Tensor:
    """The finaliser of splitmix64, with int64 overflow."""
    bits = (bits ^ _shift_right(bits, 30)) * _signed(_FIRST)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_SECOND)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Logical right shift; int64's own is arithmetic."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    """The int64 with the low 64 bits of an integer."""
    value %= 1 << 64
    return value - (1 << 64) if value >> 63 else value
