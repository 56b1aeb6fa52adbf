"""Repeated images and captions, within a split and across splits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Int

from ascl_lightning.curation.check.captions import fingerprint, quoted
from ascl_lightning.curation.check.entries import ShardEntries
from ascl_lightning.curation.check.findings import KEPT, Finding, Tally
from ascl_lightning.curation.check.resemblance import Looks, first_matches
from ascl_lightning.curation.check.split_check import SplitCheck


def repeats(checks: Sequence[SplitCheck]) -> Iterator[Finding]:
    """Yields findings of repeated images and captions, also those with a count of 0.

    Args:
        checks: All splits, the training split first.
    """
    pictures = _pictures(checks)
    contents = np.concatenate([check.pictures.contents[check.pictures.is_good] for check in checks])
    exact = first_matches(contents, pictures.groups, len(checks))
    alike = first_matches(contents, pictures.groups, len(checks), _looks(checks))
    yield from pictures.findings("repeated_images", "leaked_images", exact)
    yield from pictures.findings("similar_images", "leaked_lookalikes", alike, apart_from=exact)
    yield from _reused_ids(checks, pictures, alike)
    fingerprints = np.concatenate([check.captions.fingerprints for check in checks])
    captions = _captions(checks, fingerprints)
    same = first_matches(fingerprints, captions.groups, len(checks))
    yield from captions.findings("shared_captions", "leaked_captions", same)


@dataclass(frozen=True, eq=False)
class _Items:
    """Images or captions of all splits, concatenated.

    Args:
        checks: The splits.
        groups: Index of each item's split.
        images: Row of each item's image in its split.
        totals: Number of images or captions of each split, for shares.
        describe: Formats an example, given the item's number and place.
    """

    checks: Sequence[SplitCheck]
    groups: Int[np.ndarray, " N"]
    images: Int[np.ndarray, " N"]
    totals: Sequence[int]
    describe: Callable[[int, str], str]

    def findings(
        self,
        within: str,
        across: str,
        matches: Int[np.ndarray, "N G"],
        apart_from: Int[np.ndarray, "N G"] | None = None,
    ) -> Iterator[Finding]:
        """Yields findings of repeated items.

        Args:
            within: Kind of items that repeat an earlier one of their split.
            across: Kind of items that repeat one of an earlier split.
            matches: For each item the first equal item in each split.
            apart_from: Matches that are already reported, in the same form.
        """
        for group, check in enumerate(self.checks):
            again = self.repeated(matches, group, group, apart_from)
            yield Finding.of(within, check.name, self._tally(again, matches[again, group]), self.totals[group])
        for earlier, group in combinations(range(len(self.checks)), 2):
            again = self.repeated(matches, group, earlier, apart_from)
            name, other = self.checks[group].name, self.checks[earlier].name
            tally = self._tally(again, matches[again, earlier])
            yield Finding.of(across, name, tally, self.totals[group], other=other)

    def repeated(
        self,
        matches: Int[np.ndarray, "N G"],
        group: int,
        earlier: int,
        apart_from: Int[np.ndarray, "N G"] | None = None,
    ) -> Int[np.ndarray, " R"]:
        """Numbers of the items of split `group` that occur before in split `earlier`, which may be the same."""
        items = np.arange(len(matches))
        again = (self.groups == group) & (matches[:, earlier] < items)
        if apart_from is not None:
            again &= apart_from[:, earlier] >= items
        return np.flatnonzero(again)

    def place(self, item: int) -> str:
        """Name of the item's image."""
        return self.checks[self.groups[item]].entries.places[self.images[item]]

    def _tally(self, items: Int[np.ndarray, " R"], partners: Int[np.ndarray, " R"]) -> Tally:
        tally = Tally(
            self.describe(item, f"{self.place(item)} = {self.place(partner)}")
            for item, partner in zip(items[:KEPT].tolist(), partners[:KEPT].tolist(), strict=True)
        )
        tally.count = len(items)
        return tally


def _pictures(checks: Sequence[SplitCheck]) -> _Items:
    rows = [np.flatnonzero(check.pictures.is_good) for check in checks]
    totals = [len(check.pictures) for check in checks]
    return _Items(checks, _numbers(rows), np.concatenate(rows), totals, lambda _, place: place)


def _captions(checks: Sequence[SplitCheck], fingerprints: Int[np.ndarray, " N"]) -> _Items:
    of_split = [check.captions.images for check in checks]
    groups, rows = _numbers(of_split), np.concatenate(of_split)

    def describe(item: int, place: str) -> str:
        stored = checks[groups[item]].entries.captions
        texts = () if stored is None else stored[int(rows[item])]
        return next((f"{place}: {quoted(text)}" for text in texts if fingerprint(text) == fingerprints[item]), place)

    return _Items(checks, groups, rows, [int(check.captions.per_image.sum()) for check in checks], describe)


def _numbers(of_split: Sequence[np.ndarray]) -> Int[np.ndarray, " N"]:
    return np.repeat(np.arange(len(of_split)), [len(items) for items in of_split])


def _looks(checks: Sequence[SplitCheck]) -> Looks:
    good = [(check.pictures.looks, check.pictures.is_good) for check in checks]
    return Looks(
        np.concatenate([looks.hashes[is_good] for looks, is_good in good]),
        np.concatenate([looks.colours[is_good] for looks, is_good in good]),
        np.concatenate([looks.is_flat[is_good] for looks, is_good in good]),
    )


def _reused_ids(checks: Sequence[SplitCheck], pictures: _Items, alike: Int[np.ndarray, "N G"]) -> Iterator[Finding]:
    """Different images with the same id in two splits."""
    for earlier, group in combinations(range(len(checks)), 2):
        first, second = checks[earlier].entries, checks[group].entries
        if isinstance(first, ShardEntries) or isinstance(second, ShardEntries):
            continue
        is_same = np.zeros(len(second), np.bool_)
        is_same[pictures.images[pictures.repeated(alike, group, earlier)]] = True
        ids, other = set(first.places), checks[earlier].name
        tally = Tally(name for name, same in zip(second.places, is_same, strict=True) if name in ids and not same)
        yield Finding.of("reused_ids", checks[group].name, tally, len(second), other=other)
