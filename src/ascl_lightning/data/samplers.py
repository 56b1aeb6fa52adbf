"""Which pairs an epoch visits, and in what order: depends on (seed, epoch) alone, on any number of ranks."""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from math import ceil
from typing import TypeVar

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import Series, keyed_rng

Key = TypeVar("Key")

BUCKET_BATCHES = 32
"""Number of batches whose samples are sorted by length together."""


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (index, epoch) for this rank's share of an epoch (docs/reliability.md#exact-resume).

    Ranks take interleaved indices of one order. No index repeats, so the sizes of shares differ by at most one.

    Args:
        size: Number of indices.
        seed: The run's seed, not negative.
        shuffle: Use another permutation each epoch.
        rank: Rank of this process.
        world_size: Number of ranks.

    Raises:
        ValueError: If `size` is negative or `rank` is not one of `world_size`.
    """

    def __init__(self, size: int, seed: int, shuffle: bool, rank: int = 0, world_size: int = 1) -> None:
        if size < 0 or not 0 <= rank < world_size:
            raise ValueError(f"size {size} must not be negative, rank {rank} must be one of {world_size}")
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; Lightning calls it before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for index in self.share():
            yield int(index), epoch

    def __len__(self) -> int:
        return len(range(self.rank, self.size, self.world_size))

    def share(self) -> Int[np.ndarray, " n"]:
        """This rank's indices of the epoch, in order."""
        if not self.shuffle:
            return np.arange(self.rank, self.size, self.world_size)
        order = keyed_rng(self.seed, self.epoch).permutation(self.size)
        return order[self.rank :: self.world_size]


def num_steps(size: int, batch_size: int, world_size: int) -> int:
    """Batches per epoch, the same on every rank: enough for the largest share, and no more than the smallest can fill.

    Raises:
        UserError: If there are fewer samples than ranks.

    Examples:
        >>> num_steps(130, batch_size=32, world_size=2)  # shares of 65 and 65: batches of 21 or 22
        3
    """
    if size < world_size:
        raise UserError(f"{size} training samples are too few for {world_size} processes")
    # the limit only matters for batches of one sample; the largest share then has a batch of two
    return min(ceil(ceil(size / world_size) / batch_size), size // world_size)


class ResumableBatches(Sampler[list[Key]]):
    """Batches of consecutive epochs; the first iteration can start at any batch."""

    def __init__(self) -> None:
        self._beginning: tuple[int, int] | None = None

    def begin_at(self, epoch: int, batches: int) -> None:
        """Starts the next iteration in this epoch, overriding `set_epoch`, and skips batches without loading them."""
        self._beginning = epoch, batches

    def __iter__(self) -> Iterator[list[Key]]:
        # runs when the first batch is requested, so an unused iterator does not consume the start position
        first = 0
        if self._beginning is not None:
            (epoch, first), self._beginning = self._beginning, None
            self.set_epoch(epoch)
        yield from islice(self._batches(), first, None)

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches of a whole epoch."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; Lightning calls it before each."""

    @abstractmethod
    def _batches(self) -> Iterator[list[Key]]:
        """All batches of the epoch."""


class EpochBatches(ResumableBatches[tuple[int, int]]):
    """Splits a rank's share of an epoch into batches of almost equal size, the same number on every rank.

    Sizes differ by at most one over ranks and steps, so no sample repeats or is dropped, and no epoch ends with a batch
    too small for contrastive learning.

    Args:
        sampler: The rank's share.
        batch_size: Maximum number of samples in a batch.
        lengths: Length at (index, epoch). Groups indices of similar length within `BUCKET_BATCHES` batches, which
            saves padding; None does not group.
        together: k consecutive indices that always share a batch. `sampler` then yields the numbers of such groups:
            number g stands for the indices from g * k to g * k + k - 1, and sizes differ by at most k.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        batch_size: int,
        lengths: Callable[[int, int], int] | None = None,
        together: int = 1,
    ) -> None:
        super().__init__()
        self.sampler = sampler  # Lightning calls its `set_epoch`
        self.batch_size = batch_size
        self._lengths = lengths
        self._together = together

    def __len__(self) -> int:
        return num_steps(self.sampler.size, self.batch_size // self._together, self.sampler.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the rank's share."""
        self.sampler.set_epoch(epoch)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.sampler.epoch
        # kept as an array: a list of pairs would take a hundred bytes per sample
        share = self.sampler.share()
        bounds = [step * len(share) // len(self) for step in range(len(self) + 1)]
        length = self._lengths
        if length is None:
            yield from (self._keys(share[start:end], epoch) for start, end in pairwise(bounds))
            return
        rng = keyed_rng(self.sampler.seed, epoch, self.sampler.rank, Series.BUCKET)
        for first in range(0, len(self), BUCKET_BATCHES):
            of_bucket = bounds[first : first + BUCKET_BATCHES + 1]
            bucket = share[of_bucket[0] : of_bucket[-1]]
            longest = [max(length(*key) for key in self._keys(bucket[i : i + 1], epoch)) for i in range(len(bucket))]
            bucket = bucket[np.argsort(longest, kind="stable")]
            batches = [bucket[start - of_bucket[0] : end - of_bucket[0]] for start, end in pairwise(of_bucket)]
            yield from (self._keys(batches[i], epoch) for i in rng.permutation(len(batches)))

    def _keys(self, groups: np.ndarray, epoch: int) -> list[tuple[int, int]]:
        size = self._together
        return [(index, epoch) for group in groups.tolist() for index in range(group * size, (group + 1) * size)]


class PairIndex:
    """The (image, caption) pairs that an epoch visits; images without captions are skipped.

    Args:
        num_captions: Number of captions of each image.
        captions_per_image: None visits every pair once, in order. k visits k captions of each image, drawn for each
            epoch; captions repeat only after all of an image's have been drawn.
        seed: The run's seed, not negative; keys the draws with the epoch and the image.

    Raises:
        ValueError: If a count is negative or `captions_per_image` is below 1.
    """

    def __init__(self, num_captions: Sequence[int] | np.ndarray, captions_per_image: int | None, seed: int) -> None:
        counts = np.asarray(num_captions, dtype=np.int64)
        if (counts < 0).any() or (captions_per_image is not None and captions_per_image < 1):
            raise ValueError("numbers of captions must not be negative, captions_per_image must be at least 1")
        self.captions_per_image = captions_per_image
        self.seed = seed
        self._images = np.flatnonzero(counts)
        self._counts = counts[self._images]
        self._ends = np.cumsum(self._counts)

    def __len__(self) -> int:
        if self.captions_per_image is not None:
            return len(self._images) * self.captions_per_image
        return int(self._ends[-1]) if len(self._ends) else 0

    def pair(self, index: int, epoch: int) -> tuple[int, int]:
        """The pair at an index of an epoch: row of the image, and position among its captions.

        Raises:
            IndexError: If `index` is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        if self.captions_per_image is None:
            row = int(np.searchsorted(self._ends, index, side="right"))
            return int(self._images[row]), int(index - self._ends[row] + self._counts[row])
        row, turn = divmod(index, self.captions_per_image)
        image = int(self._images[row])
        return image, drawn_caption(image, int(self._counts[row]), turn, self.seed, epoch)


def drawn_caption(image: int, count: int, turn: int, seed: int, epoch: int) -> int:
    """Which of an image's `count` captions an epoch uses at its visit number `turn`; see `PairIndex`."""
    order = keyed_rng(seed, epoch, image, Series.CAPTION).permutation(count)
    return int(order[turn % count])


class MixedPairs:
    """The pairs of several sources in sequence, each visited as often as its weight says.

    A weight of 2.5 visits all pairs twice and a random half of them, drawn for each epoch, a third time. Each visit
    draws its own captions.

    Args:
        parts: Number of images and weight of each source; empty for one source of weight 1.
        num_captions: Number of captions of each image, of all sources.
        captions_per_image: See `PairIndex`.
        seed: See `PairIndex`.
    """

    def __init__(
        self,
        parts: Sequence[tuple[int, float]],
        num_captions: Sequence[int] | np.ndarray,
        captions_per_image: int | None,
        seed: int,
    ) -> None:
        parts = parts or [(len(num_captions), 1.0)]
        self._seed = seed
        self._starts = [0, *accumulate(size for size, _ in parts)]
        self._pairs = [
            PairIndex(num_captions[start:end], captions_per_image, seed) for start, end in pairwise(self._starts)
        ]
        visits = [round(weight * len(pairs)) for (_, weight), pairs in zip(parts, self._pairs, strict=True)]
        self._ends = list(accumulate(visits))
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def pair(self, index: int, epoch: int) -> tuple[int, int]:
        """The pair at an index of an epoch; see `PairIndex.pair`."""
        part = bisect_right(self._ends, index)
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        pairs = self._pairs[part]
        visit, place = divmod(index - (self._ends[part - 1] if part else 0), len(pairs))
        num_visits = self._ends[part] - (self._ends[part - 1] if part else 0)
        if num_visits - visit * len(pairs) < len(pairs):
            place = int(self._order(part, epoch)[place])
        image, caption = pairs.pair(place, epoch + visit * 2**32)
        return self._starts[part] + image, caption

    def _order(self, part: int, epoch: int) -> np.ndarray:
        """The order of a source's pairs in its last, incomplete visit."""
        known, order = self._orders.get(part, (-1, np.empty(0)))
        if known != epoch:
            order = keyed_rng(self._seed, epoch, part, Series.PART).permutation(len(self._pairs[part]))
            self._orders[part] = epoch, order
        return order
