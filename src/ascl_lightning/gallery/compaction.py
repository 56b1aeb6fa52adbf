"""Which shards to join, so that many small writes do not leave many small shards."""

from collections.abc import Sequence

FULL = 4096
"""Shards with as many used rows are not joined with others."""
_FAN_OUT_BITS = 4
"""16 shards of similar size are joined into one. Until a shard is full, its items are rewritten three times at most."""


def shards_to_join(sizes: Sequence[tuple[int, int, int]]) -> list[int]:
    """Numbers of shards to write into one; empty if they may stay as they are.

    Args:
        sizes: Number, rows and used rows of each shard.

    Example:
        >>> shards_to_join([(1, 10, 10), (2, 10, 4), (3, 1, 0)])
        [2, 3]
        >>> shards_to_join([(number, 20, 20) for number in range(15)])
        []
        >>> len(shards_to_join([(number, 20, 20) for number in range(16)]))
        16
    """
    wasted = [(number, used) for number, rows, used in sizes if used * 2 < rows]
    if wasted:
        return _up_to_full(wasted)
    levels: dict[int, list[tuple[int, int]]] = {}
    for number, _, used in sizes:
        if used < FULL:
            levels.setdefault((used.bit_length() - 1) // _FAN_OUT_BITS, []).append((number, used))
    crowded = [shards for shards in levels.values() if len(shards) >= 1 << _FAN_OUT_BITS]
    return _up_to_full(crowded[0]) if crowded else []


def _up_to_full(shards: Sequence[tuple[int, int]]) -> list[int]:
    """The first of some shards, until the joined one is full."""
    numbers, total = [], 0
    for number, used in shards:
        if total >= FULL:
            break
        numbers.append(number)
        total += used
    return numbers
