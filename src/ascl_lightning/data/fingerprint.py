"""What tells the images and captions of a split from those of another, in 8 bytes each; no picture is read whole.

Two splits share a picture where its file is the same byte for byte; `ascl check` also finds those that merely look
alike, and reads every picture for it.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt64

from ascl_lightning.data.sources import Split
from ascl_lightning.data.sources.base import ends_of_picture
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.threads import side_by_side

_ROWS_AT_ONCE = 64
_ODD = np.uint64(0x9E3779B97F4A7C15)
_COLUMNS = {"ids": "<u8", "pictures": "<u8", "captions": "<u8", "num_captions": "<i8"}


@dataclass(frozen=True, eq=False)
class SplitDigest:
    """Hashes of a split's images and captions.

    Args:
        ids: Of the name of each image, (N,); 0 where the images are not known (a streamed split).
        pictures: Of what each picture holds, (N,); 0 where that is not at hand: features in its place, a file that
            cannot be read.
        captions: Of what the text encoder is given of each caption, one image's after another's, (M,).
        num_captions: How many belong to each image, (N,).
        words: All words of the captions; none in what was read from a checkpoint.
    """

    ids: UInt64[np.ndarray, " N"]
    pictures: UInt64[np.ndarray, " N"]
    captions: UInt64[np.ndarray, " M"]
    num_captions: Int[np.ndarray, " N"]
    words: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def of(cls, split: Split) -> "SplitDigest":
        """Looks at every caption, and at the ends of every picture's file."""
        pictures = picture_digests(split)
        return cls(_hashes(split.image_ids), pictures, *_of_captions(split.captions))

    @classmethod
    def of_stream(cls, captions: Sequence[tuple[str, ...]]) -> "SplitDigest":
        """Of a split whose pictures come while it trains: of the images no more than their number is known.

        Args:
            captions: Of each image.
        """
        unknown = np.zeros(len(captions), np.uint64)
        return cls(unknown, unknown, *_of_captions(captions))

    @property
    def knows_images(self) -> bool:
        """Whether anything is known of the images."""
        return bool(self.ids.any())

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the split holds, as 16 hex digits each.

        `images` (names and pictures) and `captions` depend on the order of the images; `any_order` is of both, and the
        same for the same images with the same captions in any order.
        """
        parts = {
            "images": (self.ids, self.pictures),
            "captions": (self.captions, self.num_captions),
            "any_order": (np.sort(self._whole_images()),),
        }
        return {name: f"{digest(*arrays):016x}" for name, arrays in parts.items()}

    def same_images(self, other: "SplitDigest") -> Bool[np.ndarray, " N"]:
        """Which images of this split are surely in the other.

        The same picture; or, where one side has none to compare, the same name with the same caption.
        """
        same = (self.pictures > 0) & np.isin(self.pictures, other.pictures)
        described = np.isin(self._described(), other._described())
        images = np.repeat(np.arange(len(self.ids)), self.num_captions)
        same[images[described & self._incomparable(other)[images]]] = True
        return same

    def namesakes(self, other: "SplitDigest") -> Bool[np.ndarray, " N"]:
        """Which images of this split have the name of one in the other, and no picture or caption says whether both
        are the same.
        """  # noqa: D205
        return self._incomparable(other) & ~self.same_images(other)

    def state(self) -> dict[str, str]:
        """As plain texts, for checkpoints and exported weights."""
        return {
            name: base64.b64encode(getattr(self, name).astype(kind).tobytes()).decode()
            for name, kind in _COLUMNS.items()
        }

    @classmethod
    def from_state(cls, state: dict[str, str]) -> "SplitDigest":
        """What `state` gave.

        Raises:
            ValueError: If it is something else.
        """
        ids, pictures, captions, num_captions = (
            np.frombuffer(base64.b64decode(state[name], validate=True), kind).astype(kind[1:])
            for name, kind in _COLUMNS.items()
        )
        return cls(ids, pictures, captions, num_captions)

    def _described(self) -> UInt64[np.ndarray, " M"]:
        """Of each caption together with the name of its image."""
        return np.repeat(self.ids, self.num_captions) * _ODD ^ self.captions

    def _whole_images(self) -> UInt64[np.ndarray, " N"]:
        """Of the name, the picture and the captions of each image, the captions in their order."""
        firsts = np.cumsum(self.num_captions) - self.num_captions
        places = np.arange(len(self.captions)) - np.repeat(firsts, self.num_captions)
        whole = self.ids * _ODD ^ self.pictures
        # sums wrap around; an odd factor for each place keeps the order
        owners = np.repeat(np.arange(len(self.ids)), self.num_captions)
        np.add.at(whole, owners, (self.captions ^ _ODD) * (2 * places + 3).astype(np.uint64))
        return whole

    def _incomparable(self, other: "SplitDigest") -> Bool[np.ndarray, " N"]:
        """Which images have a namesake in the other split where either has no picture."""
        unknown = other.ids[other.pictures == 0]
        return np.isin(self.ids, unknown) | (self.pictures == 0) & np.isin(self.ids, other.ids)


def digest(*arrays: np.ndarray) -> int:
    """64 bits that tell arrays apart by shape and content."""
    hashed = blake2b(digest_size=8)
    for array in arrays:
        hashed.update(repr(array.shape).encode())
        hashed.update(np.ascontiguousarray(array).data)
    return int.from_bytes(hashed.digest(), "big")


def picture_digests(split: Split) -> UInt64[np.ndarray, " N"]:
    """Hash of what each picture of a split holds; 0 where it is not at hand.

    Of a file or encoded picture, its size, beginning and end count; of pixels, all.
    """
    if split.picture_digests is not None:
        return split.picture_digests
    if split.images is None:
        return np.zeros(len(split), np.uint64)
    images = split.images
    starts = range(0, len(split), _ROWS_AT_ONCE)
    blocks = side_by_side(
        lambda start: [_picture_digest(images, row) for row in range(start, min(start + _ROWS_AT_ONCE, len(split)))],
        starts,
    )
    return np.fromiter((of_row for block in blocks for of_row in block), np.uint64, len(split))


def _picture_digest(images: Any, row: int) -> int:
    try:
        content = ends_of_picture(images, row)
        return digest(content) if isinstance(content, np.ndarray) else _hash(content)
    except (OSError, UserError):
        return 0  # training skips it, and evaluation ends with a list of such


def _of_captions(
    captions: Sequence[tuple[str, ...]],
) -> tuple[UInt64[np.ndarray, " M"], Int[np.ndarray, " N"], frozenset[str]]:
    """Hash of each caption, number of each image's, and all words."""
    words: set[str] = set()
    counts: list[int] = []

    def cleaned() -> Iterable[str]:
        for of_image in captions:
            counts.append(len(of_image))
            for caption in of_image:
                text = clean_caption(caption)
                words.update(text.split())
                yield text

    return _hashes(cleaned()), np.array(counts, np.int64), frozenset(words)


def _hashes(texts: Iterable[str]) -> UInt64[np.ndarray, " N"]:
    return np.fromiter((_hash(text.encode()) for text in texts), np.uint64)


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
