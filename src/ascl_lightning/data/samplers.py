"""Which pairs an epoch visits, and in what order: functions of (seed, epoch) alone, on any number of ranks."""

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
"""Batches whose samples are sorted by length together: enough for little padding, few enough to stay mixed."""


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (index, epoch) for this rank's share of an epoch (docs/reliability.md#exact-resume).

    Ranks take interleaved indices of one order; every index is seen once, so that shares differ by one at most.

    Args:
        size: Number of indices.
        seed: The run's seed, not negative.
        shuffle: Permute the indices anew each epoch.
        rank: This process.
        world_size: Number of processes.

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
        """This rank's indices of the epoch in order."""
        if not self.shuffle:
            return np.arange(self.rank, self.size, self.world_size)
        order = keyed_rng(self.seed, self.epoch).permutation(self.size)
        return order[self.rank :: self.world_size]


def num_steps(size: int, batch_size: int, world_size: int) -> int:
    """Batches of an epoch, the same on every rank: as many as the largest share needs, and the smallest can fill.

    Raises:
        UserError: If there are fewer samples than ranks.

    Examples:
        >>> num_steps(130, batch_size=32, world_size=2)  # shares of 65 and 65: batches of 21 or 22
        3
    """
    if size < world_size:
        raise UserError(f"{size} training samples are too few for {world_size} processes")
    # only batches of one sample can be more than the smallest share has; one of them is then a batch of two
    return min(ceil(ceil(size / world_size) / batch_size), size // world_size)


class ResumableBatches(Sampler[list[Key]]):
    """Batches of one epoch after another; the first iteration can begin anywhere."""

    def __init__(self) -> None:
        self._beginning: tuple[int, int] | None = None

    def begin_at(self, epoch: int, batches: int) -> None:
        """Begin the next iteration in this epoch, whatever `set_epoch` says, and pass over some batches unread."""
        self._beginning = epoch, batches

    def __iter__(self) -> Iterator[list[Key]]:
        # all of this waits for the first batch: an iterator that is never used leaves the beginning to the next
        first = 0
        if self._beginning is not None:
            (epoch, first), self._beginning = self._beginning, None
            self.set_epoch(epoch)
        yield from islice(self._batches(), first, None)

    @abstractmethod
    def __len__(self) -> int:
        """Batches of a whole epoch."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; Lightning calls it before each."""

    @abstractmethod
    def _batches(self) -> Iterator[list[Key]]:
        """All batches of the epoch."""


class EpochBatches(ResumableBatches[tuple[int, int]]):
    """Cuts a rank's share of an epoch into batches of nearly one size, as many on every rank.

    Sizes differ by one at most, over ranks and steps: ranks stay in step, nothing comes twice or is left out, and no
    epoch ends in a batch too small to contrast.

    Args:
        sampler: The rank's share.
        batch_size: Most samples of a batch.
        lengths: Of each index; batches then hold indices of similar length, out of `BUCKET_BATCHES` batches drawn
            together, so that less padding is computed. None: as they come.
    """

    def __init__(
        self, sampler: EpochSampler, batch_size: int, lengths: Callable[[int, int], int] | None = None
    ) -> None:
        super().__init__()
        self.sampler = sampler  # where Lightning sets the epoch
        self.batch_size = batch_size
        self._lengths = lengths

    def __len__(self) -> int:
        return num_steps(self.sampler.size, self.batch_size, self.sampler.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the rank's share."""
        self.sampler.set_epoch(epoch)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.sampler.epoch
        # an array to the end: as pairs in a list, an epoch of a large data set would take a hundred bytes a sample
        share = self.sampler.share()
        bounds = [step * len(share) // len(self) for step in range(len(self) + 1)]
        length = self._lengths
        if length is None:
            yield from (_keys(share[start:end], epoch) for start, end in pairwise(bounds))
            return
        rng = keyed_rng(self.sampler.seed, epoch, self.sampler.rank, Series.BUCKET)
        for first in range(0, len(self), BUCKET_BATCHES):
            of_bucket = bounds[first : first + BUCKET_BATCHES + 1]
            bucket = sorted(_keys(share[of_bucket[0] : of_bucket[-1]], epoch), key=lambda key: length(*key))
            batches = [bucket[start - of_bucket[0] : end - of_bucket[0]] for start, end in pairwise(of_bucket)]
            yield from (batches[i] for i in rng.permutation(len(batches)))


def _keys(indices: np.ndarray, epoch: int) -> list[tuple[int, int]]:
    return [(index, epoch) for index in indices.tolist()]


class PairIndex:
    """The (image, caption) pairs that an epoch visits; images without captions are not visited.

    Args:
        num_captions: Captions of each image.
        captions_per_image: None visits every pair once, in order. k visits k captions of each image, drawn for each
            epoch without replacement; where an image has fewer than k, all come before one comes again.
        seed: The run's seed, not negative; it keys the draws with the epoch and the image.

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
        """The pair at a place of an epoch.

        Args:
            index: Place in the epoch, from 0 to len - 1.
            epoch: The epoch, not negative; without effect where every pair is visited.

        Returns:
            Row of the image, and place of the caption among the image's.

        Raises:
            IndexError: If `index` is outside.
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
    """Which of an image's `count` captions an epoch takes at its `turn`-th visit; all come before one comes again."""
    order = keyed_rng(seed, epoch, image, Series.CAPTION).permutation(count)
    return int(order[turn % count])


class MixedPairs:
    """The pairs of several sources one after another, each visited as often as its weight says.

    A weight of 2.5 visits all pairs twice and a random half once more, another half each epoch; where captions are
    drawn, each visit draws anew.

    Args:
        parts: For each source its number of images and its weight; none: one source of weight 1.
        num_captions: Captions of each image, of all sources.
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
        """The pair at a place of an epoch; see `PairIndex.pair`."""
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
        """The order in which the last, incomplete visit takes a source's pairs."""
        known, order = self._orders.get(part, (-1, np.empty(0)))
        if known != epoch:
            order = keyed_rng(self._seed, epoch, part, Series.PART).permutation(len(self._pairs[part]))
            self._orders[part] = epoch, order
        return order
