"""Finds identical and near-duplicate images, among millions in seconds."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64
from PIL import Image

HASH_DISTANCE = 3
"""Maximum Hamming distance of the 64-bit hashes of near duplicates."""

COLOUR_DISTANCE = 16
"""Maximum colour difference (of 255) of near duplicates in each of 8 x 8 fields."""

FLAT_RANGE = 8
"""Range of grey levels below which an image counts as blank."""

COLOURS = 192
"""Bytes of the colours of 8 x 8 fields."""

_SIDE = 32
_FIELDS = 8
# coefficient of a wave of one grey level; weaker ones depend on the image encoding
_WEAKEST = (_SIDE / 2) ** 2
# 64 bits in 6 blocks: hashes that differ in at most 3 bits have at least 3 equal blocks
_NUM_BLOCKS = HASH_DISTANCE + 3
_COSINES = np.cos(np.pi * np.arange(1, 9)[:, None] * (np.arange(_SIDE) + 0.5) / _SIDE)


@dataclass(frozen=True, eq=False)
class Look:
    """Appearance of an image in 200 bytes.

    Args:
        hash: Perceptual hash of 64 bits, after pHash (Zauner, 2010): which of the 64 lowest frequencies that change
            along both sides are positive, in the cosine transform of 32 x 32 fields of grey. pHash compares with
            their median instead; a fixed bound next to zero agrees better between encodings.
        colours: Mean colours of 8 x 8 fields, row by row. Different simple images may share a hash, but not these.
        is_flat: Whether the image is blank, so that its hash is meaningless.
    """

    hash: int
    colours: UInt8[np.ndarray, "192"]
    is_flat: bool

    @classmethod
    def of(cls, picture: Image.Image) -> "Look":
        """Computes the look of an RGB image."""
        fields = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
        grey = np.asarray(fields.convert("L"), np.float32)
        bits = np.packbits(_COSINES @ grey @ _COSINES.T > _WEAKEST)
        colours = np.asarray(fields.resize((_FIELDS, _FIELDS), Image.Resampling.BOX)).ravel()
        return cls(int.from_bytes(bits.tobytes(), "big"), colours, bool(np.ptp(grey) < FLAT_RANGE))


def near_pairs(
    hashes: UInt64[np.ndarray, " N"], colours: UInt8[np.ndarray, "N 192"]
) -> Iterator[tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]]:
    """Yields pairs of near-duplicate images, possibly repeated.

    Only images with some equal blocks of the hash (Manku et al., WWW 2007) and similar brightness are compared. Time is
    linear unless most images look the same; memory is linear.

    Args:
        hashes: Hash of each image.
        colours: Colours of each image.

    Yields:
        Rows of the first and second images of some pairs.
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
            # images with the same key are sorted by brightness
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
        """Yields near-duplicate pairs among some images, as indices into `rows`."""
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
    """For each item the first equal or similar item in each group.

    Args:
        values: Items are equal if their values are.
        groups: Index of each item's group.
        num_groups: Number of groups G.
        looks: Appearance of each item. None: find only equal items.

    Returns:
        Row of the first such item in each group; N if there is none.
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
    # np.bitwise_count needs NumPy 2
    bits: np.ndarray = np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1, dtype=np.int64)
    return bits
