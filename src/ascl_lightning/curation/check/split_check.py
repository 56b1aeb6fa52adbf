"""Checks within one split."""

from collections.abc import Iterator, Sequence

import numpy as np

from ascl_lightning.curation.check.captions import Captions
from ascl_lightning.curation.check.entries import ShardEntries, ViewEntries
from ascl_lightning.curation.check.findings import Finding, SplitSummary, Tally
from ascl_lightning.curation.check.kinds import Severity
from ascl_lightning.curation.check.picture_facts import FaultKind, PictureFacts, Pictures
from ascl_lightning.data.batch import ImageSpec, PixelSpec
from ascl_lightning.data.images import MAX_PIXELS
from ascl_lightning.data.sources.records import CaptionFault

TINY = 32
"""Images with a shorter side below this many pixels are reported."""

LARGE_PIXELS = 8_000_000
"""Larger images take ten times as long to decode as those of the usual data sets."""


class SplitCheck:
    """Collects the faults of a split.

    Args:
        name: Name of the split.
        entries: Images of the split.
        spec: Input of the image encoder.
        captions: Checks the captions.
        caption_faults: Captions that the source skips while it is read.
        max_bad_share: Fraction of unreadable images that training tolerates; 0 in evaluation.
    """

    def __init__(
        self,
        name: str,
        entries: ViewEntries | ShardEntries,
        spec: ImageSpec,
        captions: Captions,
        caption_faults: Sequence[CaptionFault],
        max_bad_share: float,
    ) -> None:
        self.name = name
        self.entries = entries
        self.captions = captions
        self.pictures = Pictures()
        self._caption_faults = caption_faults
        self._side = spec.size if isinstance(spec, PixelSpec) else 0
        self._max_bad_share = max_bad_share
        self._num_stored_texts = 0
        self._faults: dict[FaultKind, Tally] = {"unreadable": Tally(), "huge": Tally(), "broken": Tally()}
        self._tiny, self._small, self._large, self._blank = Tally(), Tally(), Tally(), Tally()

    def add(self, place: str, texts: tuple[str, ...], facts: PictureFacts) -> None:
        """Adds the next image."""
        self.captions.add(place, texts)
        self.pictures.add(facts)
        if facts.fault is not None:
            self._faults[facts.fault_kind].add(facts.fault)
        elif facts.size is not None:
            self._note_size(place, *facts.size)
        if facts.look is not None and facts.look.is_flat:
            self._blank.add(place)

    def add_stored_text(self, facts: PictureFacts) -> None:
        """Adds the next row of the stored text features."""
        self._num_stored_texts += 1
        if facts.fault is not None:
            self._faults["broken"].add(facts.fault)

    def findings(self) -> Iterator[Finding]:
        """Yields all findings, also those with a count of 0."""
        name, total = self.name, len(self.pictures)
        unreadable, huge, broken = self._faults.values()
        yield Finding.of("unreadable_shards", name, self.entries.broken, self.entries.num_shards)
        bad = unreadable.count + huge.count
        severity: Severity = "warning" if bad <= self._max_bad_share * total else "error"
        yield Finding.of("unreadable_images", name, unreadable, total, severity)
        yield Finding.of("huge_images", name, huge, total, severity, limit=MAX_PIXELS)
        yield Finding.of("broken_features", name, broken, total + self._num_stored_texts)
        yield Finding.of("tiny_images", name, self._tiny, total, limit=TINY)
        yield Finding.of("small_images", name, self._small, total, limit=self._side)
        yield Finding.of("large_images", name, self._large, total, limit=LARGE_PIXELS)
        yield Finding.of("blank_images", name, self._blank, total)
        blank = Tally(fault.message for fault in self._caption_faults if fault.is_blank)
        unusable = Tally(fault.message for fault in self._caption_faults if not fault.is_blank)
        num_captions = len(self._caption_faults) + int(self.captions.per_image.sum())
        yield Finding.of("blank_captions", name, blank, num_captions)
        yield Finding.of("unusable_captions", name, unusable, num_captions)
        yield from self.captions.findings(name)

    def summary(self) -> SplitSummary:
        """Size of the split."""
        per_image, sides = self.captions.per_image, self.pictures.sides
        numbers, images = np.unique(per_image, return_counts=True)
        return SplitSummary(
            images=len(per_image),
            captions=int(per_image.sum()),
            captions_per_image=dict(zip(numbers.tolist(), images.tolist(), strict=True)),
            shorter_side=(int(sides.min()), int(sides.max()), int(np.median(sides))) if len(sides) else None,
            tokens=self.captions.tokens,
        )

    def _note_size(self, place: str, width: int, height: int) -> None:
        example, side = f"{place}: {width} x {height}", min(width, height)
        if side < TINY:
            self._tiny.add(example)
        if TINY <= side < self._side:
            self._small.add(example)
        if width * height > LARGE_PIXELS:
            self._large.add(example)
