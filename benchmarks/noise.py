"""Captions corrupted on purpose, so that it is known which pairs triage should find."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ascl_lightning.data.sources.base import Shard, Source, Split

KINDS = ("mismatched", "over_long", "under_specified")


def spoil(
    captions: Sequence[tuple[str, ...]], shares: dict[str, float], seed: int
) -> tuple[list[tuple[str, ...]], dict[tuple[int, int], str]]:
    """Corrupts some pairs of a split, each at most once.

    A mismatched pair gets the caption of another mismatched pair, of another image. An over-long caption has a caption
    of another image appended. An under-specified caption keeps the first third of its words.

    Args:
        captions: The captions of each image.
        shares: Share of all pairs, for each of `KINDS`.
        seed: Determines which pairs.

    Returns:
        The captions, and the kind of each corrupted pair by its image and position.
    """
    rng = np.random.default_rng(seed)
    pairs = [(image, place) for image, of_image in enumerate(captions) for place in range(len(of_image))]
    order = [pairs[number] for number in rng.permutation(len(pairs))]
    new, kinds, start = [list(of_image) for of_image in captions], {}, 0
    for kind in KINDS:
        end = start + round(shares.get(kind, 0.0) * len(pairs))
        kinds |= dict.fromkeys(order[start:end], kind)
        start = end
    mismatched = [pair for pair, kind in kinds.items() if kind == "mismatched"]
    for (image, place), (other, there) in zip(mismatched, _apart(mismatched), strict=True):
        new[image][place] = captions[other][there]
    for (image, place), kind in kinds.items():
        if kind == "over_long":
            other = int((image + rng.integers(1, len(captions))) % len(captions))
            new[image][place] += f" {captions[other][int(rng.integers(len(captions[other])))]}"
        elif kind == "under_specified":
            words = captions[image][place].split()
            new[image][place] = " ".join(words[: max(1, len(words) // 3)])
    return [tuple(of_image) for of_image in new], kinds


def _apart(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs in another order, so that no pair is paired with its own image."""
    ordered = sorted(pairs)
    most = max((sum(1 for _ in group) for group in _by_image(ordered)), default=0)
    moved = dict(zip(ordered, ordered[most:] + ordered[:most], strict=True))
    return [moved[pair] for pair in pairs]


def _by_image(ordered: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    groups: dict[int, list[tuple[int, int]]] = {}
    for pair in ordered:
        groups.setdefault(pair[0], []).append(pair)
    return list(groups.values())


class SpoiledCaptions(Source):
    """Another source with some training pairs corrupted; other splits are not changed.

    Args:
        source: The other source.
        shares: As in `spoil`.
        seed: As in `spoil`.
    """

    def __init__(self, source: Source, shares: dict[str, float], seed: int = 0) -> None:
        self.source = source
        self.shares = shares
        self.seed = seed

    def read(self, root: Path | None, split: str) -> Split:
        whole = self.source.read(root, split)
        return whole if split != "train" else replace(whole, captions=spoil(whole.captions, self.shares, self.seed)[0])

    def shards(self, root: Path | None, split: str) -> Sequence[Shard] | None:
        return self.source.shards(root, split)

    def ceiling(self, root: Path | None, split: str) -> dict[str, Any]:
        return self.source.ceiling(root, split)
