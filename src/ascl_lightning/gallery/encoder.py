"""Encodes pictures and their captions into a gallery, in parts that become durable one after the other."""

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from ascl_lightning.api import Retriever
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.catalogue import Item, Stamp
from ascl_lightning.gallery.contents import Contents
from ascl_lightning.gallery.pictures import Fault, Picture, read_picture
from ascl_lightning.runtime.threads import side_by_side
from ascl_lightning.search.encoded import Encoded

PICTURES_PER_STEP = 256
"""Pictures that become durable together: what a killed process has to encode again at most."""


@dataclass(frozen=True)
class Job:
    """A picture to encode.

    Args:
        id: Its id in the gallery.
        path: Path relative to the folder of the pictures.
        stamp: Size and time of change of the file.
        captions: Its captions.
        caption_ids: Their ids.
        tags: Its tags.
    """

    id: int
    path: str
    stamp: Stamp
    captions: tuple[str, ...]
    caption_ids: range
    tags: tuple[str, ...]

    def item(self, picture: Picture) -> Item:
        """The row of the catalogue."""
        facts = picture.facts
        size = facts.width, facts.height
        return Item(self.path, self.stamp, picture.hash, *size, facts.taken, self.captions, self.tags)


class PictureEncoder:
    """Encodes pictures and captions.

    Args:
        retriever: The model.
        images: Folder of the pictures.
        contents: Where they are written.
        batch_size: Number of pictures per batch. It is halved when memory runs out.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self, retriever: Retriever, images: Path, contents: Contents, batch_size: int, progress: bool = False
    ) -> None:
        self._retriever = retriever
        self._images = images
        self._contents = contents
        self._batch_size = batch_size
        self._progress = progress

    def encode(self, jobs: Sequence[Job]) -> None:
        """Reads, encodes and writes pictures with their captions. Those that cannot be read are written down as such.

        Raises:
            UserError: If there is not enough memory, or the gallery cannot be written.
        """
        spec = self._retriever.image_spec
        assert isinstance(spec, PixelSpec)
        # threads read ahead while a part is encoded
        read = side_by_side(lambda job: (job, read_picture(self._images, job.path, spec)), jobs)
        for part in _parts(_track(read, len(jobs), self._progress), PICTURES_PER_STEP):
            faults = {job.path: (job.stamp, found.reason) for job, found in part if isinstance(found, Fault)}
            self._contents.catalogue.set_unreadable(faults)
            readable = [(job, found) for job, found in part if isinstance(found, Picture)]
            if not readable:
                continue
            encoded = self._encode_pictures([picture for _, picture in readable])
            self._contents.pictures.upsert([job.id for job, _ in readable], encoded)
            captions = [pair for job, _ in readable for pair in zip(job.caption_ids, job.captions, strict=True)]
            self.encode_captions(captions)
            self._contents.catalogue.put(
                {job.id: job.item(picture) for job, picture in readable},
                {job.id: job.caption_ids for job, _ in readable},
            )

    def encode_captions(self, captions: Sequence[tuple[int, str]]) -> None:
        """Encodes captions and writes their vectors.

        Args:
            captions: Id and text of each.
        """
        if captions:
            encoded = self._retriever.encode_texts([text for _, text in captions])
            self._contents.captions.upsert([number for number, _ in captions], encoded)

    def _encode_pictures(self, pictures: Sequence[Picture]) -> Encoded:
        pixels = torch.stack([picture.pixels for picture in pictures])
        while True:
            try:
                return self._retriever.encode_images(pixels, batch_size=self._batch_size)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if self._batch_size == 1:
                    raise UserError("there is not enough memory to encode a single picture") from error
            # outside the handler, whose traceback holds the tensors
            self._batch_size //= 2
            gc.collect()
            torch.cuda.empty_cache()


_Read = tuple[Job, Picture | Fault]


def _is_out_of_memory(error: BaseException) -> bool:
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in said
        or "can't allocate memory" in said
    )


def _parts(items: Iterable[_Read], size: int) -> Iterator[list[_Read]]:
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part


def _track(items: Iterator[_Read], total: int, shown: bool) -> Iterable[_Read]:
    if not shown or not total:
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, "Encoding pictures", total, console=Console(stderr=True))
