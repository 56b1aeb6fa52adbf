"""Reads all images of a split as training does, in threads, and stores a few facts about each."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt64

from ascl_lightning.curation.check.resemblance import COLOURS, Look, Looks
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.fingerprint import digest
from ascl_lightning.data.images import HugeImageError, ImageBytes, image_size
from ascl_lightning.data.stored_features import FeatureTable
from ascl_lightning.data.views import SplitView, decode
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.threads import side_by_side

_ROWS_AT_ONCE = 64

FaultKind = Literal["unreadable", "huge", "broken"]
"""An unreadable image, an image with too many pixels, or damaged features that training does not detect."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureFacts:
    """Facts about one image or its extracted features.

    Args:
        fault: Error message of an unusable image, whose other facts are meaningless.
        fault_kind: Kind of the fault.
        size: Width and height in the file. None for features.
        content: Hash of the encoder's input.
        look: Appearance of the image. None for features.
    """

    fault: str | None = None
    fault_kind: FaultKind = "unreadable"
    size: tuple[int, int] | None = None
    content: int = 0
    look: Look | None = None


def picture_facts(image: Path | ImageBytes | np.ndarray, spec: PixelSpec) -> PictureFacts:
    """Decodes an image as training does, at the same reduced size.

    Truncated images are detected at any size, because the decoder always reads a JPEG to its end.
    """
    try:
        size = (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image_size(image)
        picture = decode(image, spec)
    except UserError as error:
        return _fault(error)
    return PictureFacts(size=size, content=digest(np.asarray(picture)), look=Look.of(picture))


def facts_of_view(view: SplitView) -> Iterator[PictureFacts]:
    """Facts about the images of a split, in order; decodes in threads.

    Raises:
        UserError: If the split has neither images nor features for the encoder.
    """
    if view.features.images is not None:
        return facts_of_table(view.features.images)
    images, spec = view.images, view.spec
    return side_by_side(lambda row: _facts_of_row(images, row, spec), range(len(view.split)))


class Pictures:
    """Facts about the images of a split, about 220 bytes per image."""

    def __init__(self) -> None:
        self._good = bytearray()
        self._flat = bytearray()
        self._contents = array("Q")
        self._hashes = array("Q")
        self._colours = bytearray()
        self._sides = array("I")

    def __len__(self) -> int:
        return len(self._good)

    def add(self, facts: PictureFacts) -> None:
        """Adds the facts of the next image."""
        look = facts.look
        self._good.append(facts.fault is None)
        self._flat.append(look is None or look.is_flat)
        self._contents.append(facts.content)
        self._hashes.append(0 if look is None else look.hash)
        self._colours.extend(bytes(COLOURS) if look is None else look.colours.tobytes())
        if facts.size is not None:
            self._sides.append(min(facts.size))

    @property
    def is_good(self) -> Bool[np.ndarray, " N"]:
        """Whether each image is readable."""
        return np.array(self._good, np.bool_)

    @property
    def contents(self) -> UInt64[np.ndarray, " N"]:
        """Content hash of each image."""
        return np.array(self._contents, np.uint64)

    @property
    def looks(self) -> Looks:
        """Appearance of each image."""
        colours = np.frombuffer(self._colours, np.uint8).reshape(-1, COLOURS)
        return Looks(np.array(self._hashes, np.uint64), colours, np.array(self._flat, np.bool_))

    @property
    def sides(self) -> Int[np.ndarray, " M"]:
        """Shorter side of each readable image; empty for features."""
        return np.array(self._sides, np.int64)


def _facts_of_row(images: Any, row: int, spec: Any) -> PictureFacts:
    try:
        image = images[row]
    except UserError as error:
        return _fault(error)
    return picture_facts(image, spec)


def facts_of_table(table: FeatureTable) -> Iterator[PictureFacts]:
    """Facts about each row of a table of extracted features, in order."""
    blocks = torch.arange(len(table)).split(_ROWS_AT_ONCE)
    for facts in side_by_side(lambda rows: list(_facts_of_rows(table, rows)), blocks):
        yield from facts


def _facts_of_rows(table: FeatureTable, rows: Int[torch.Tensor, " B"]) -> Iterator[PictureFacts]:
    features = table.gather(rows)
    for row, pooled, tokens, mask in zip(rows.tolist(), features.pooled, features.tokens, features.mask, strict=True):
        where = f"{table.folder}, row {row}"
        kept = tokens[mask]
        if not len(kept):
            yield PictureFacts(f"{where}: empty, because its source could not be read; extract it again")
        elif pooled.isfinite().all() and kept.isfinite().all():
            yield PictureFacts(content=digest(pooled.numpy(), kept.numpy()))
        else:
            yield PictureFacts(f"{where}: values are not finite; extract it again", "broken")


def _fault(error: UserError) -> PictureFacts:
    return PictureFacts(str(error), "huge" if isinstance(error, HugeImageError) else "unreadable")
