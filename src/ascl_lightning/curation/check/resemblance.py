"""Which pictures are copies of one another, byte for byte or encoded anew, among millions in seconds."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64
from PIL import Image

HASH_DISTANCE = 3
"""Bits of 64 in which the hashes of near duplicates may differ."""

COLOUR_DISTANCE = 16
"""Levels of 255 by which the colours of near duplicates may differ, in each of 8 x 8 fields."""

FLAT_RANGE = 8
"""Levels of grey between the darkest and the brightest field of a picture that shows nothing."""

COLOURS = 192
"""Bytes of the colours of 8 x 8 fields."""

_SIDE = 32
_FIELDS = 8
# what a wave of one level of grey gives: weaker ones are as encoders leave them
_WEAKEST = (_SIDE / 2) ** 2
# 64 bits in 6 blocks: of two hashes that differ in 3 bits at most, at least 3 blocks are equal
_NUM_BLOCKS = HASH_DISTANCE + 3
_COSINES = np.cos(np.pi * np.arange(1, 9)[:, None] * (np.arange(_SIDE) + 0.5) / _SIDE)


@dataclass(frozen=True, eq=False)
class Look:
    """What a picture looks like, in 200 bytes.

    Args:
        hash: Perceptual hash of 64 bits, after pHash (Zauner, 2010): which of the 64 lowest frequencies that change
            along both sides are positive, in the cosine transform of 32 x 32 fields of grey. pHash compares with
            their median instead; a fixed bound next to zero agrees better between encodings.
        colours: Mean colours of 8 x 8 fields, row by row. Simple pictures share a hash by chance, but not these too.
        is_flat: Whether there is nothing to see, so that a hash means nothing.
    """

    hash: int
    colours: UInt8[np.ndarray, "192"]
    is_flat: bool

    @classmethod
    def of(cls, picture: Image.Image) -> "Look":
        """The look of an RGB picture."""
        fields = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
        grey = np.asarray(fields.convert("L"), np.float32)
        bits = np.packbits(_COSINES @ grey @ _COSINES.T > _WEAKEST)
        colours = np.asarray(fields.resize((_FIELDS, _FIELDS), Image.Resampling.BOX)).ravel()
        return cls(int.from_bytes(bits.tobytes(), "big"), colours, bool(np.ptp(grey) < FLAT_RANGE))


def near_pairs(
    hashes: UInt64[np.ndarray, " N"], colours: UInt8[np.ndarray, "N 192"]
) -> Iterator[tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]]:
    """Pairs of pictures that look alike; a pair may come more than once.

    Only pictures of which some blocks of the hash are equal (as Manku et al., WWW 2007), and that are about as bright,
    are compared: the work is linear but for sets of which most look the same, and the memory is linear.

    Args:
        hashes: Of each picture.
        colours: Likewise.

    Yields:
        Rows of the first and of the second picture of some pairs.
    """
    blocks = [np.uint64(sum(1 << bit for bit in range(start, 64, _NUM_BLOCKS))) for start in range(_NUM_BLOCKS)]
    brightness = colours.sum(axis=1, dtype=np.int64)
    for equal in combinations(blocks, _NUM_BLOCKS - HASH_DISTANCE):
        keys = hashes & np.bitwise_or.reduce(equal)
        order = np.lexsort((brightness, keys))
        firsts, apart = np.arange(len(order)), 0
        while True:
            apart += 1
            firsts = firsts[firsts + apart < len(order)]
            one, other = order[firsts], order[firsts + apart]
            # of the pictures of one key, the further apart the less alike in brightness
            close = (keys[one] == keys[other]) & (brightness[other] - brightness[one] <= COLOUR_DISTANCE * COLOURS)
            if not close.any():
                break
            firsts, one, other = firsts[close], one[close], other[close]
            alike = _num_bits(hashes[one] ^ hashes[other]) <= HASH_DISTANCE
            one, other = one[alike], other[alike]
            different = np.abs(colours[one].astype(np.int16) - colours[other]).max(axis=1, initial=0)
            yield one[different <= COLOUR_DISTANCE], other[different <= COLOUR_DISTANCE]


@dataclass(frozen=True, eq=False)
class Looks:
    """The looks of many pictures, column by column; see `Look`."""

    hashes: UInt64[np.ndarray, " N"]
    colours: UInt8[np.ndarray, "N 192"]
    is_flat: Bool[np.ndarray, " N"]

    def pairs(self, rows: Int[np.ndarray, " R"]) -> Iterator[tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]]:
        """Pairs among some pictures that look alike, as places in `rows`."""
        places = np.flatnonzero(~self.is_flat[rows])
        seen = rows[places]
        for one, other in near_pairs(self.hashes[seen], self.colours[seen]):
            yield places[one], places[other]


def first_matches(
    values: Int[np.ndarray, " N"] | UInt64[np.ndarray, " N"],
    groups: Int[np.ndarray, " N"],
    num_groups: int,
    looks: Looks | None = None,
) -> Int[np.ndarray, "N G"]:
    """The first item of each group that is equal to, or looks like, an item.

    Args:
        values: What makes items equal.
        groups: Number of each item's group.
        num_groups: Number G of groups.
        looks: Of each item; None: only equal ones are looked for.

    Returns:
        Row of the first such item of each group; N where there is none.
    """
    unique, rows, nodes = np.unique(values, return_index=True, return_inverse=True)
    first = np.full((len(unique), num_groups), len(values))
    np.minimum.at(first, (nodes, groups), np.arange(len(values)))
    found = first.copy()
    for one, other in looks.pairs(rows) if looks is not None else ():
        np.minimum.at(found, one, first[other])
        np.minimum.at(found, other, first[one])
    return found[nodes]


def _num_bits(values: UInt64[np.ndarray, " P"]) -> Int[np.ndarray, " P"]:
    # NumPy counts bits itself from 2.0 on
    bits: np.ndarray = np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1, dtype=np.int64)
    return bits
