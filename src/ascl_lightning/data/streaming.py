"""Streamed training data, shuffled within a window: each image once per epoch, over all ranks.

One pass over the captions counts the images of all shards. An epoch visits the shards in random order; each rank reads
a contiguous range of that order, divided among its workers, and shuffles a window of encoded images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
from rich.progress import track
from torch.utils.data import Dataset

from ascl_lightning.data.batch import ImageSpec, PixelSpec
from ascl_lightning.data.datasets import TextMaker, TrainItem
from ascl_lightning.data.samplers import ResumableBatches, drawn_caption, num_steps
from ascl_lightning.data.sources.base import Shard, Streamed
from ascl_lightning.data.views import Augmentation, load_picture
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import Series, keyed_rng, sampling_key

WINDOW = 512
"""Number of encoded images that a worker holds and shuffles."""


@dataclass(frozen=True)
class StreamKey:
    """Key of a sample: its position in the epoch, and the start and end of its window."""

    place: int
    start: int
    end: int
    epoch: int


def streamed_spec(spec: ImageSpec | None) -> PixelSpec:
    """Input of an encoder of streamed pictures.

    Raises:
        UserError: If the encoder takes region features.
    """
    if not isinstance(spec, PixelSpec):
        raise UserError("a streamed source has pictures, and the image encoder takes region features")
    return spec


class StreamPlan:
    """The order of an epoch over shards of known sizes. Images without captions are skipped.

    Args:
        counts: Number of captions of each image, for each shard.
        seed: The run's seed.
    """

    def __init__(self, counts: Sequence[np.ndarray], seed: int) -> None:
        self.seed = seed
        self._visited = [np.flatnonzero(of_shard) for of_shard in counts]
        self.num_captions = np.concatenate(counts)
        self._first_image = np.cumsum([0, *map(len, counts)])
        self.text_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.num_captions)])

    def __len__(self) -> int:
        return sum(map(len, self._visited))

    def order(self, epoch: int) -> np.ndarray:
        """Numbers of the shards in the order of an epoch."""
        return keyed_rng(self.seed, epoch, Series.SHARD).permutation(len(self._visited))

    def window(self, start: int, end: int, epoch: int) -> list[int]:
        """The positions of a window in shuffled order."""
        rng = keyed_rng(self.seed, epoch, start, Series.WINDOW)
        return [int(place) for place in rng.permutation(np.arange(start, end))]

    def images_from(self, place: int, epoch: int) -> Iterator[tuple[int, int, int]]:
        """Number of the shard, of the image in it and in the split, from a position of an epoch on."""
        for shard in self.order(epoch).tolist():
            visited = self._visited[shard]
            for image in visited[place:].tolist():
                yield shard, image, int(self._first_image[shard]) + image
            place = max(0, place - len(visited))


@dataclass(frozen=True)
class Stream:
    """Shards, their order in an epoch, and their captions until the vocabulary is mined."""

    shards: Sequence[Shard]
    plan: StreamPlan
    captions: list[tuple[str, ...]]

    @classmethod
    def count(cls, shards: Sequence[Shard], seed: int) -> "Stream":
        """Reads all captions once.

        Raises:
            UserError: If no image has captions, or the data is faulty.
        """
        counts: list[np.ndarray] = []
        captions: list[tuple[str, ...]] = []
        for shard in track(shards, description="Counting streamed images, once"):
            of_shard = list(shard.captions())
            counts.append(np.array([len(texts) for texts in of_shard], np.int64))
            captions.extend(of_shard)
        plan = StreamPlan(counts, seed)
        if not len(plan):
            raise UserError(f"{shards[0].name}: no image of the {len(shards)} shards has a caption")
        return cls(shards, plan, captions)


class StreamBatches(ResumableBatches[StreamKey]):
    """This rank's share of an epoch, in batches of almost equal size, the same number on every rank.

    The loader assigns batches to workers in turn; here the batches of each worker cover a contiguous range.

    Args:
        plan: The order of an epoch.
        batch_size: Maximum number of samples in a batch.
        num_workers: Number of loader processes; 0 counts as one.
        rank: Rank of this process.
        world_size: Number of ranks.
    """

    def __init__(self, plan: StreamPlan, batch_size: int, num_workers: int, rank: int, world_size: int) -> None:
        super().__init__()
        self._plan = plan
        self._epoch = 0
        self._num_steps = num_steps(len(plan), batch_size, world_size)
        start, end = rank * len(plan) // world_size, (rank + 1) * len(plan) // world_size
        self._bounds = [start + step * (end - start) // self._num_steps for step in range(self._num_steps + 1)]
        self._num_stretches = max(1, num_workers)
        self.sampler = self  # Lightning calls its `set_epoch`

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; Lightning calls it before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_steps

    def _batches(self) -> Iterator[list[StreamKey]]:
        # the first ranges are longer, as the first workers may get one batch more
        sizes = [len(range(worker, self._num_steps, self._num_stretches)) for worker in range(self._num_stretches)]
        ends = np.cumsum([0, *sizes]).tolist()
        stretches = [self._stretch(self._bounds[first : last + 1], self._epoch) for first, last in pairwise(ends)]
        for batches in zip_longest(*stretches):
            yield from (batch for batch in batches if batch is not None)

    def _stretch(self, bounds: list[int], epoch: int) -> Iterator[list[StreamKey]]:
        windows = ((start, min(start + WINDOW, bounds[-1])) for start in range(bounds[0], bounds[-1], WINDOW))
        keys = (
            StreamKey(place, start, end, epoch)
            for start, end in windows
            for place in self._plan.window(start, end, epoch)
        )
        for start, end in pairwise(bounds):
            yield [next(keys) for _ in range(end - start)]


class StreamDataset(Dataset[TrainItem]):
    """Reads an epoch sequentially and holds images until they are requested.

    An unreadable picture is replaced by a held one or the last good one, and the item records the error.

    Args:
        stream: Shards and their order in an epoch.
        spec: Input of the image encoder.
        texts: Makes T+ and T-.
        augmentation: Changes of pictures; operations draw other pictures from the held ones.
    """

    def __init__(self, stream: Stream, spec: PixelSpec, texts: TextMaker, augmentation: Augmentation) -> None:
        self.plan = stream.plan
        self._shards = stream.shards
        self._spec = spec
        self._texts = texts
        self._augmentation = augmentation
        self._epoch = -1
        self._next = 0
        self._reader: Iterator[tuple[int, Streamed]] = iter(())
        self._held: dict[int, tuple[int, Streamed]] = {}
        self._last: tuple[int, Streamed] | None = None

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, key: StreamKey) -> TrainItem:
        """An image, one of its captions, drawn for the epoch, and the texts made from it.

        Raises:
            UserError: If shards cannot be read or have changed, or no held picture can be read.
        """
        entries = [self._take(key), *(self._held[place] for place in sorted(self._held)[:20])]
        if self._last is not None:
            entries.append(self._last)
        faults: list[str] = []
        for entry in entries:
            try:
                item = self._item(*entry, key.epoch, tuple(faults))
            except UserError as error:  # noqa: PERF203
                faults.append(str(error))
            else:
                self._last = entry
                return item
        raise UserError(f"{len(faults)} pictures in a row cannot be read. The first: {faults[0]}")

    def _take(self, key: StreamKey) -> tuple[int, Streamed]:
        if key.place not in self._held:
            if self._epoch != key.epoch or not key.start <= self._next <= key.place:
                self._begin(key)
            self._read_to(key.place)
        return self._held.pop(key.place)

    def _begin(self, key: StreamKey) -> None:
        """Starts at the beginning of a window and restores the state before the request for this key."""
        self._epoch, self._next, self._held = key.epoch, key.start, {}
        self._reader = self._read(key.start, key.epoch)
        window = self.plan.window(key.start, key.end, key.epoch)
        for place in window[: window.index(key.place)]:
            self._read_to(place)
            del self._held[place]

    def _read_to(self, place: int) -> None:
        while self._next <= place:
            self._held[self._next] = next(self._reader)
            self._next += 1

    def _read(self, place: int, epoch: int) -> Iterator[tuple[int, Streamed]]:
        current, number = -1, 0
        items: Iterator[Streamed] = iter(())
        for shard, image, row in self.plan.images_from(place, epoch):
            if shard != current:
                current, number, items = shard, image, self._shards[shard].items(image)
            while True:
                streamed = next(items, None)
                number += 1
                if number > image:
                    break
            if streamed is None or len(streamed[0]) != self.plan.num_captions[row]:
                raise UserError(f"{self._shards[shard].name}: changed while it was read; start again")
            yield row, streamed

    def _item(self, row: int, streamed: Streamed, epoch: int, faults: tuple[str, ...]) -> TrainItem:
        captions, picture = streamed
        rng = keyed_rng(self._texts.seed, epoch, row, Series.STREAMED_PICTURE)
        others = [image for _, (_, image) in self._held.values()] or [picture]
        pixels, operation = load_picture(picture, self._spec, self._augmentation, others, rng)
        caption = drawn_caption(row, len(captions), 0, self._texts.seed, epoch)
        return TrainItem(
            image_row=row,
            text_row=int(self.plan.text_offsets[row]) + caption,
            picture=pixels,
            texts=self._texts.make(captions, caption, row, epoch, row),
            key=sampling_key(self._texts.seed, epoch, row),
            epoch=epoch,
            image_operation=operation,
            faults=faults,
        )
