"""Whole columns of a table become a split at once: a million rows in seconds, where row by row takes a minute.

Whatever is out of the ordinary is left to the plain way row by row, which says what is wrong and where.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from ascl_lightning.data.sources.base import Split
from ascl_lightning.data.sources.files import FolderImages

# an absolute path, a step upwards, an end of text; a drive or a backslash, which are paths on some systems
_UNSAFE_NAME = r"^/|(^|/)\.\.(/|$)|^[./]*$|\x00|\\|^[A-Za-z]:"
_LETTER_OR_DIGIT = r"[\pL\pN]"


class TextColumn(Sequence[str]):
    """Texts kept as one Arrow column, a quarter of a list's size.

    Args:
        texts: The column, without nulls.
        all_distinct: Whether it is known that no text comes twice.
    """

    def __init__(self, texts: "pa.ChunkedArray[Any]", all_distinct: bool = False) -> None:
        self.all_distinct = all_distinct
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, row: Any) -> Any:
        """One text, or those of a slice."""
        return self._texts[row].to_pylist() if isinstance(row, slice) else self._texts[int(row)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            yield from self._texts.slice(start, 4096).to_pylist()


class CaptionColumn(Sequence[tuple[str, ...]]):
    """Captions of each image, kept as one Arrow column.

    Args:
        texts: All captions, one image's after another's.
        counts: How many belong to each image.
    """

    def __init__(self, texts: "pa.ChunkedArray[Any]", counts: Int[np.ndarray, " N"]) -> None:
        self.counts = counts
        self._texts = texts
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, row: Any) -> Any:
        """The captions of one image, or of a slice of them."""
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"image {row} of {len(self)}")
        end, count = int(self._ends[row]), int(self.counts[row])
        return tuple(self._texts.slice(end - count, count).to_pylist())

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        texts = iter(TextColumn(self._texts))
        for count in self.counts.tolist():
            yield tuple(next(texts) for _ in range(count))


def split_of_columns(table: "pa.Table", folder: Path) -> Split | None:
    """Make a split of a table's rows.

    Args:
        table: The columns `image`, `image_id`, `caption` (all text) and `captions` (lists of text), null where a row
            has no such field.
        folder: The folder of images.

    Returns:
        The split; None where a row needs a closer look.
    """
    names = table.column("image")
    if names.null_count or not len(names) or _any(pc.match_substring_regex(names, _UNSAFE_NAME)):
        return None
    listed, single = table.column("captions"), table.column("caption")
    given = table.column("image_id")
    ids = names if given.null_count == len(given) else pc.coalesce(given, names)
    if _has_blank(ids) or _has_blank(names):
        return None
    if single.null_count == len(single) and not listed.null_count:
        return _one_row_an_image(ids, names, listed, folder)
    if listed.null_count == len(listed) and not single.null_count:
        return _one_row_a_caption(ids, names, single, folder)
    return None


def _one_row_an_image(ids: Any, names: Any, captions: Any, folder: Path) -> Split | None:
    texts = pc.list_flatten(captions)
    if not _all_distinct(ids) or texts.null_count or _has_blank(texts):
        return None
    counts = pc.list_value_length(captions).to_numpy().astype(np.int64)
    return Split(TextColumn(ids, True), CaptionColumn(texts, counts), FolderImages(folder, TextColumn(names)))


def _one_row_a_caption(ids: Any, names: Any, texts: Any, folder: Path) -> Split | None:
    if _has_blank(texts):
        return None
    encoded = ids.combine_chunks().dictionary_encode()
    rows = encoded.indices.to_numpy()
    firsts = np.unique(rows, return_index=True)[1]
    first_names = names.take(pa.array(firsts))
    if not first_names.take(encoded.indices).equals(names):
        return None
    grouped = texts.take(pa.array(rows.argsort(kind="stable")))
    captions = CaptionColumn(grouped, np.bincount(rows))
    return Split(TextColumn(encoded.dictionary, True), captions, FolderImages(folder, TextColumn(first_names)))


def _any(values: Any) -> bool:
    return bool(pc.any(values).as_py())


def _all_distinct(texts: Any) -> bool:
    """Whether no text comes twice; two different ones with one hash, which is next to impossible, count as one."""
    hashes = np.fromiter(map(hash, TextColumn(texts)), np.int64, len(texts))
    return len(np.unique(hashes)) == len(hashes)


def _has_blank(texts: Any) -> bool:
    """Whether a text is blank, by Python's notion of white space; few texts have no letter and need it."""
    unusual = texts.filter(pc.invert(pc.match_substring_regex(texts, _LETTER_OR_DIGIT)))
    return not all(text.strip() for text in unusual.to_pylist())
