"""Interface of sources: `Source` reads a `Split`, or gives `Shard`s to stream."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, UInt8, UInt64

from ascl_lightning.data.images import ImageBytes, ends
from ascl_lightning.data.stored_features import SplitFeatures
from ascl_lightning.data.variants.ladder import Ladder, VariantStep
from ascl_lightning.errors import UserError

Images = Sequence[Path | ImageBytes | UInt8[np.ndarray, "_ _ 3"]] | UInt8[np.ndarray, "N S S 3"]
"""Path, encoded bytes (read lazily) or pixels of each picture.

A lazy sequence of encoded bytes has a method `ends(row)`, for `ends_of_picture`.
"""


def ends_of_picture(images: Any, row: int) -> bytes | UInt8[np.ndarray, "H W 3"]:
    """Size, first and last bytes of an encoded picture, read without the rest of it; or the pixels of a decoded one.

    Raises:
        OSError: If it cannot be read.
        UserError: Likewise.
    """
    if hasattr(images, "ends"):
        found: bytes = images.ends(row)
        return found
    image = images[row]
    return image if isinstance(image, np.ndarray) else ends(image)


class Rows(Sequence[Any]):
    """Lazy selection of rows of a sequence."""

    def __init__(self, values: Sequence[Any] | np.ndarray, rows: Sequence[int]) -> None:
        self._values = values
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        """One value of the selection."""
        return self._values[self._rows[row]]

    def ends(self, row: int) -> bytes | np.ndarray:
        """See `ends_of_picture`."""
        return ends_of_picture(self._values, self._rows[row])


@dataclass(frozen=True)
class Choice:
    """One test of a compositional benchmark: text i describes image i, and no other text of the test does.

    Args:
        category: The part of the benchmark that it belongs to.
        images: Row of each image in the split: one, or two that are compared with each other (Winoground).
        texts: The caption of each image, then wrong texts.

    Raises:
        ValueError: If there is no image, or no wrong text.
    """

    category: str
    images: tuple[int, ...]
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.images or len(self.texts) < max(2, len(self.images)):
            raise ValueError(f"{len(self.images)} images and {len(self.texts)} texts: nothing to choose from")


@dataclass(frozen=True)
class Choices:
    """The tests of a compositional benchmark.

    Args:
        tests: All tests.
        left_out: How many the source left out, by reason.
    """

    tests: Sequence[Choice]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split with their captions; row i of all three fields is the same image.

    Args:
        image_ids: A unique name for each image.
        captions: The captions of each image; an image may have none.
        images: The pictures; None if the source has only captions.
        features: Features extracted from the split beforehand.
        passes: Numbers of consecutive images and how often an epoch visits their pairs; empty visits each once.
        picture_digests: For extracted features, the hash of each picture (`data/fingerprint.py`), (N,).
        caption_ids: The data set's own number of each caption, image by image, (C,), if it has any.
        choices: For a compositional benchmark, its tests. Such a split is not ranked.

    Raises:
        ValueError: If the fields differ in length, an image id repeats, or a caption lacks its number.
    """

    image_ids: Sequence[str]
    captions: Sequence[tuple[str, ...]]
    images: Images | None
    passes: tuple[tuple[int, float], ...] = ()
    features: SplitFeatures = field(default_factory=SplitFeatures)
    picture_digests: UInt64[np.ndarray, " N"] | None = None
    caption_ids: Int64[np.ndarray, " C"] | None = None
    choices: Choices | None = None

    def __post_init__(self) -> None:
        lengths = len(self.image_ids), len(self.captions), len(self if self.images is None else self.images)
        if len(set(lengths)) != 1:
            raise ValueError("{} image_ids, {} captions and {} images: one of each an image".format(*lengths))
        if not _are_distinct(self.image_ids):
            raise ValueError("image_ids must be unique")
        if self.caption_ids is not None and len(self.caption_ids) != self.num_captions.sum():
            raise ValueError(f"{len(self.caption_ids)} caption_ids for {self.num_captions.sum()} captions")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def select(self, rows: Sequence[int]) -> "Split":
        """Some of the images, in this order."""
        return Split(
            [self.image_ids[row] for row in rows],
            [self.captions[row] for row in rows],
            None if self.images is None else Rows(self.images, rows),
            caption_ids=None if self.caption_ids is None else self._caption_ids_of(rows, self.caption_ids),
        )

    def _caption_ids_of(self, rows: Sequence[int], caption_ids: Int64[np.ndarray, " C"]) -> Int64[np.ndarray, " c"]:
        of_images = np.split(caption_ids, np.cumsum(self.num_captions)[:-1])
        return np.concatenate([caption_ids[:0], *(of_images[row] for row in rows)])

    @property
    def num_captions(self) -> Int[np.ndarray, " N"]:
        """Number of captions of each image."""
        counts: np.ndarray | None = getattr(self.captions, "counts", None)
        return np.fromiter(map(len, self.captions), np.int64, len(self)) if counts is None else counts


def _are_distinct(names: Sequence[str]) -> bool:
    """Whether all names differ; compares hashes first, as a set of a million strings takes 70 MB."""
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))
    return bool((hashes[1:] != hashes[:-1]).all()) or len(set(names)) == len(names)


Streamed = tuple[tuple[str, ...], Path | ImageBytes]
"""Captions and picture of one image."""


class Shard(ABC):
    """A part of a split that is read sequentially, such as a tar archive.

    It keeps no file open between calls and can be pickled to worker processes.
    """

    name: str

    @abstractmethod
    def captions(self) -> Iterator[tuple[str, ...]]:
        """The captions of every image, in order; pictures are skipped if the format allows it.

        Raises:
            UserError: If the data is faulty (the message says where).
        """

    @abstractmethod
    def items(self, start: int) -> Iterator[Streamed]:
        """The images from number `start` on with their captions, in the order of `captions`.

        Raises:
            UserError: As `captions`.
        """


class Source(ABC):
    """A data set of images with captions, in named splits such as `train`, `val` and `test`.

    A source opens no file before `read` is called. Captions are not changed, and an image may have any number of them,
    including none. A caption that is blank, null or not text is an error that names file, row and field
    (`caption_faults` collects them); empty lines of text files with one caption per line are ignored.
    """

    @abstractmethod
    def read(self, root: Path | None, split: str) -> Split:
        """Reads one split, which has at least one image.

        Args:
            root: Folder of the data (`--data.root`), if one was given.
            split: Name of the split.

        Raises:
            UserError: If there is no such split (the message lists the existing ones with their sizes), or the data
                is faulty (the message says where).
        """

    def shards(self, root: Path | None, split: str) -> Sequence[Shard] | None:
        """The shards that training streams, at least one; None if the split is to be read whole. See `read`."""
        return None

    def ceiling(self, root: Path | None, split: str) -> dict[str, float]:
        """Metrics of a scorer that knows the truth, with the keys of `retrieval_metrics`; empty if it is not known."""
        return {}

    def exact_variants(
        self, root: Path | None, split: str, text_rows: Sequence[int], seed: int
    ) -> Sequence[Ladder[VariantStep]]:
        """Texts made from captions, known to be true or false of their images; empty if the truth is not known.

        Args:
            root: As in `read`.
            split: As in `read`.
            text_rows: Rows of the captions, counted over all images.
            seed: Seed of all draws.
        """
        return ()


class MissingSplitError(UserError):
    """A source does not have a split."""


def missing_split(split: str, sizes: Mapping[str, int], where: str) -> MissingSplitError:
    """The error to raise for a split that a source does not have.

    Args:
        split: The name that was asked for.
        sizes: Number of images of each existing split.
        where: The file that was searched, or the source's own name.
    """
    existing = ", ".join(f"{name} ({size:,})" for name, size in sizes.items()) or "none"
    return MissingSplitError(f"{where}: there is no split '{split}'; it has (with numbers of images): {existing}")
