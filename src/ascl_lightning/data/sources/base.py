"""What every source of images with captions gives, and how it is asked."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ascl_lightning.errors import UserError


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split with their captions; row i of all three fields is the same image.

    Args:
        image_ids: A unique name for each image.
        captions: The captions of each image: any number, none included.
        images: Where each picture (or `.npy` file of region features) lies, or the pictures themselves where a source
            renders them, (N, S, S, 3).

    Raises:
        ValueError: If the fields differ in length or an image id repeats.
    """

    image_ids: Sequence[str]
    captions: Sequence[tuple[str, ...]]
    images: Sequence[Path] | UInt8[np.ndarray, "N S S 3"]

    def __post_init__(self) -> None:
        lengths = len(self.image_ids), len(self.captions), len(self.images)
        if len(set(lengths)) != 1:
            raise ValueError("{} image_ids, {} captions and {} images: one of each an image".format(*lengths))
        if len(set(self.image_ids)) != len(self.image_ids):
            raise ValueError("image_ids must be unique")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)


class Source(ABC):
    """A data set of images with captions, in named splits (`train`, `val`, `test`, or whatever it has).

    A source is a description: it opens nothing before `read` is called, so that it costs nothing to configure, and one
    that lacks a split serves for the splits it has.
    """

    @abstractmethod
    def read(self, root: Path | None, split: str) -> Split:
        """Read one split.

        Args:
            root: Folder that the data lies in (`--data.root`); None where none was given.
            split: Name of the split.

        Returns:
            At least one image with its captions.

        Raises:
            UserError: If there is no such split (the message lists those that exist, with their sizes), or if
                something in the data is wrong (the message says where).
        """

    def ceiling(self, root: Path | None, split: str) -> dict[str, float]:
        """Metrics of a scorer that knows the truth, with the keys of `retrieval_metrics`.

        Args:
            root: As in `read`.
            split: As in `read`.

        Returns:
            Nothing, unless the source knows the truth about its pictures.
        """
        return {}


def missing_split(split: str, sizes: Mapping[str, int], where: str) -> UserError:
    """The error for a split that a source does not have.

    Args:
        split: The name that was asked for.
        sizes: Number of images of each split that exists.
        where: What was searched: a file, or the source's own name.

    Returns:
        The error, for the caller to raise.
    """
    existing = ", ".join(f"{name} ({size:,})" for name, size in sizes.items()) or "none"
    return UserError(f"{where}: there is no split '{split}'; it has (with numbers of images): {existing}")
