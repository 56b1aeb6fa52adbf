"""Which pairs an epoch visits, and in what order: functions of (seed, epoch) alone, on any number of ranks."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

# The stream under (seed, epoch, image) that captions are drawn from, apart from those of data/asymmetry.py
_CAPTION_STREAM = 4


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (index, epoch) for this rank's share of an epoch (RELIABILITY, "Bit-exact resume", step 2).

    Ranks take interleaved indices of one order. With `shuffle` (training) the order wraps around until the ranks are
    even, so that they stay in step and every index is seen; without it (evaluation) ranks may be uneven and nothing
    comes twice.

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
        for index in self._order(epoch)[self.rank :: self.world_size].tolist():
            yield index, epoch

    def __len__(self) -> int:
        return len(range(self.rank, self._padded_size(), self.world_size))

    def _padded_size(self) -> int:
        """Indices over all ranks, those that the wrap repeats included."""
        return self.size + (-self.size % self.world_size if self.shuffle else 0)

    def _order(self, epoch: int) -> np.ndarray:
        """Indices of all ranks in order."""
        if not self.shuffle:
            return np.arange(self.size)
        permutation = np.random.default_rng([self.seed, epoch]).permutation(self.size)
        return np.resize(permutation, self._padded_size())


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

    def __init__(self, num_captions: Sequence[int], captions_per_image: int | None, seed: int) -> None:
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
        image, count = int(self._images[row]), int(self._counts[row])
        order = np.random.default_rng([self.seed, epoch, image, _CAPTION_STREAM]).permutation(count)
        return image, int(order[turn % count])
