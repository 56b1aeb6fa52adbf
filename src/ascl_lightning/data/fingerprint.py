"""Hashes of the images and captions of a split (8 bytes each), which detect data shared by two splits.

Pictures are the same if their files are; `ascl check` also finds near duplicates, for which it decodes every picture.
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
        ids: Hash of each image's name, (N,); 0 for streamed images.
        pictures: Hash of each picture, (N,); 0 if it is unreadable or replaced by features.
        captions: Hash of each cleaned caption, image by image, (M,).
        num_captions: Number of captions of each image, (N,).
        words: All words of the captions; empty if read from a checkpoint.
    """

    ids: UInt64[np.ndarray, " N"]
    pictures: UInt64[np.ndarray, " N"]
    captions: UInt64[np.ndarray, " M"]
    num_captions: Int[np.ndarray, " N"]
    words: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def of(cls, split: Split) -> "SplitDigest":
        """Hashes every caption, and the ends of every picture's file."""
        pictures = picture_digests(split)
        return cls(_hashes(split.image_ids), pictures, *_of_captions(split.captions))

    @classmethod
    def of_stream(cls, captions: Sequence[tuple[str, ...]]) -> "SplitDigest":
        """Hashes of a streamed split, of whose images only the number is known."""
        unknown = np.zeros(len(captions), np.uint64)
        return cls(unknown, unknown, *_of_captions(captions))

    @property
    def knows_images(self) -> bool:
        """Whether the images have hashes."""
        return bool(self.ids.any())

    @property
    def fingerprint(self) -> dict[str, str]:
        """Hashes of the whole split, as 16 hex digits each.

        `images` (names and pictures) and `captions` depend on the order of the images; `any_order`, of both, does not.
        """
        parts = {
            "images": (self.ids, self.pictures),
            "captions": (self.captions, self.num_captions),
            "any_order": (np.sort(self._whole_images()),),
        }
        return {name: f"{digest(*arrays):016x}" for name, arrays in parts.items()}

    def same_images(self, other: "SplitDigest") -> Bool[np.ndarray, " N"]:
        """Which images of this split are certainly in the other.

        They have the same picture or, if one side lacks its hash, the same name and a common caption.
        """
        same = (self.pictures > 0) & np.isin(self.pictures, other.pictures)
        described = np.isin(self._described(), other._described())
        images = np.repeat(np.arange(len(self.ids)), self.num_captions)
        same[images[described & self._incomparable(other)[images]]] = True
        return same

    def namesakes(self, other: "SplitDigest") -> Bool[np.ndarray, " N"]:
        """Which images share only their name with one in the other split, which leaves open if they are the same."""
        return self._incomparable(other) & ~self.same_images(other)

    def state(self) -> dict[str, str]:
        """The digest as plain texts, for checkpoints and exported weights."""
        return {
            name: base64.b64encode(getattr(self, name).astype(kind).tobytes()).decode()
            for name, kind in _COLUMNS.items()
        }

    @classmethod
    def from_state(cls, state: dict[str, str]) -> "SplitDigest":
        """The inverse of `state`.

        Raises:
            ValueError: If `state` is damaged.
        """
        ids, pictures, captions, num_captions = (
            np.frombuffer(base64.b64decode(state[name], validate=True), kind).astype(kind[1:])
            for name, kind in _COLUMNS.items()
        )
        return cls(ids, pictures, captions, num_captions)

    def _described(self) -> UInt64[np.ndarray, " M"]:
        """Hash of each caption together with its image's name."""
        return np.repeat(self.ids, self.num_captions) * _ODD ^ self.captions

    def _whole_images(self) -> UInt64[np.ndarray, " N"]:
        """Hash of the name, the picture and the ordered captions of each image."""
        firsts = np.cumsum(self.num_captions) - self.num_captions
        places = np.arange(len(self.captions)) - np.repeat(firsts, self.num_captions)
        whole = self.ids * _ODD ^ self.pictures
        # sums wrap around; an odd factor for each place keeps the order
        owners = np.repeat(np.arange(len(self.ids)), self.num_captions)
        np.add.at(whole, owners, (self.captions ^ _ODD) * (2 * places + 3).astype(np.uint64))
        return whole

    def _incomparable(self, other: "SplitDigest") -> Bool[np.ndarray, " N"]:
        """Which images have a namesake in the other split, if either lacks its picture's hash."""
        unknown = other.ids[other.pictures == 0]
        return np.isin(self.ids, unknown) | (self.pictures == 0) & np.isin(self.ids, other.ids)


def digest(*arrays: np.ndarray) -> int:
    """64-bit hash of the shapes and contents of arrays."""
    hashed = blake2b(digest_size=8)
    for array in arrays:
        hashed.update(repr(array.shape).encode())
        hashed.update(np.ascontiguousarray(array).data)
    return int.from_bytes(hashed.digest(), "big")


def picture_digests(split: Split) -> UInt64[np.ndarray, " N"]:
    """Hash of each picture of a split, 0 if there is none: of pixels, or of the size and the ends of a file."""
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
        return 0  # training skips it, and evaluation stops with a list


def _of_captions(
    captions: Sequence[tuple[str, ...]],
) -> tuple[UInt64[np.ndarray, " M"], Int[np.ndarray, " N"], frozenset[str]]:
    """Hash of each caption, number of captions of each image, and all words."""
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
