"""Reads every picture of a split as training reads it, side by side, and keeps what it learnt of each in some bytes."""

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
"""Of a picture: it cannot be read, or has more pixels than are allowed; of extracted features: training would not
notice."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureFacts:
    """What was learnt of one picture, or of the features in its place.

    Args:
        fault: Why it cannot be used; all else then counts for nothing.
        fault_kind: Of the fault.
        size: Width and height as they lie in the file; None for features.
        content: Hash of what the encoder would be given.
        look: What it looks like; None for features.
    """

    fault: str | None = None
    fault_kind: FaultKind = "unreadable"
    size: tuple[int, int] | None = None
    content: int = 0
    look: Look | None = None


def picture_facts(image: Path | ImageBytes | np.ndarray, spec: PixelSpec) -> PictureFacts:
    """Decode a picture as training does, at the same reduced size.

    A picture that is cut short is found at any size: the decoder reads a JPEG to its end whatever it makes of it.
    """
    try:
        size = (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image_size(image)
        picture = decode(image, spec)
    except UserError as error:
        return _fault(error)
    return PictureFacts(size=size, content=digest(np.asarray(picture)), look=Look.of(picture))


def facts_of_view(view: SplitView) -> Iterator[PictureFacts]:
    """What is to be said of the pictures of a split, in order; decoders work side by side.

    Raises:
        UserError: If the split has neither pictures nor the features that the encoder takes.
    """
    if view.features.images is not None:
        return facts_of_table(view.features.images)
    images, spec = view.images, view.spec
    return side_by_side(lambda row: _facts_of_row(images, row, spec), range(len(view.split)))


class Pictures:
    """What was learnt of the pictures of a split, some 220 bytes of each."""

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
        """Note the facts of the next picture."""
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
        """Which pictures could be read."""
        return np.array(self._good, np.bool_)

    @property
    def contents(self) -> UInt64[np.ndarray, " N"]:
        """Hash of what each picture holds."""
        return np.array(self._contents, np.uint64)

    @property
    def looks(self) -> Looks:
        """What each picture looks like."""
        colours = np.frombuffer(self._colours, np.uint8).reshape(-1, COLOURS)
        return Looks(np.array(self._hashes, np.uint64), colours, np.array(self._flat, np.bool_))

    @property
    def sides(self) -> Int[np.ndarray, " M"]:
        """Shorter side of each picture that could be read; none of features."""
        return np.array(self._sides, np.int64)


def _facts_of_row(images: Any, row: int, spec: Any) -> PictureFacts:
    try:
        image = images[row]
    except UserError as error:
        return _fault(error)
    return picture_facts(image, spec)


def facts_of_table(table: FeatureTable) -> Iterator[PictureFacts]:
    """What is to be said of each row of a table of extracted features, in order."""
    blocks = torch.arange(len(table)).split(_ROWS_AT_ONCE)
    for facts in side_by_side(lambda rows: list(_facts_of_rows(table, rows)), blocks):
        yield from facts


def _facts_of_rows(table: FeatureTable, rows: Int[torch.Tensor, " B"]) -> Iterator[PictureFacts]:
    features = table.gather(rows)
    for row, pooled, tokens, mask in zip(rows.tolist(), features.pooled, features.tokens, features.mask, strict=True):
        where = f"{table.folder}, row {row}"
        kept = tokens[mask]
        if not len(kept):
            yield PictureFacts(f"{where}: holds nothing, as what it stands for could not be read; extract it again")
        elif pooled.isfinite().all() and kept.isfinite().all():
            yield PictureFacts(content=digest(pooled.numpy(), kept.numpy()))
        else:
            yield PictureFacts(f"{where}: holds values that are not finite; extract it again", "broken")


def _fault(error: UserError) -> PictureFacts:
    return PictureFacts(str(error), "huge" if isinstance(error, HugeImageError) else "unreadable")
