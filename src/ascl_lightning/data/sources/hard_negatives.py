"""Compositional benchmarks: images with their captions and with texts that are wrong in a detail.

The files are those of SugarCrepe (Hsieh et al., NeurIPS 2023), ARO (Yuksekgonul et al., ICLR 2023), VALSE (Parcalabescu
et al., ACL 2022) and Winoground (Thrush et al., CVPR 2022).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ascl_lightning.data.images import ends, open_image
from ascl_lightning.data.sources.base import Choice, Choices, MissingSplitError, Source, Split
from ascl_lightning.data.sources.files import (
    FolderImages,
    data_folder,
    files_named,
    image_folder,
    json_lines,
    name_inside,
    parse_json,
    read_lines,
)
from ascl_lightning.data.sources.records import Record
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError

VALID_VOTES = 2
"""Of three annotators, how many must say that VALSE's caption, and not the foil, describes the image (section 4.4)."""
UNSURE = f"fewer than {VALID_VOTES} annotators chose the caption"
SAME = "no wrong text differs from the caption after clean-up"
_SPLIT = "test"
_BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


@dataclass(frozen=True)
class _Picture:
    folder: str
    name: str
    box: tuple[int, int, int, int] | None = None
    """Left, top, width and height of the part to show; None shows all."""

    @property
    def image_id(self) -> str:
        part = "" if self.box is None else "#" + ",".join(map(str, self.box))
        return f"{self.name}{part}"


@dataclass(frozen=True)
class _Test:
    """A test as a file states it."""

    image_fields: tuple[str, ...]
    texts: tuple[str, ...]
    valid: bool = True
    category: str | None = None
    """None: the file's name."""
    suffix: str = ""
    """Added to image names that have none."""


def _sugar_crepe(record: Record) -> _Test:
    return _Test(("filename",), _texts(record, "caption", "negative_caption"))


def _valse(record: Record) -> _Test:
    votes = record.record("mturk")
    chosen = votes.number("caption")
    if chosen is None:
        votes.fail("caption", "must be the number of annotators who chose the caption")
    return _Test(("image_file",), _texts(record, "caption", "foil"), chosen >= VALID_VOTES)


def _aro_pair(record: Record) -> _Test:
    return _Test(("image_path",), _texts(record, "true_caption", "false_caption"))


def _aro_order(record: Record) -> _Test:
    texts = record.captions("caption_options")
    if len(texts) < 2:
        record.fail("caption_options", "must have the caption first, and at least one wrong text after it")
    return _Test(("image",), texts)


def _winoground(record: Record) -> _Test:
    texts = _texts(record, "caption_0", "caption_1")
    category = record.text("collapsed_tag") if record.has("collapsed_tag") else None
    return _Test(("image_0", "image_1"), texts, category=category, suffix=".png")


def _texts(record: Record, *fields: str) -> tuple[str, ...]:
    return tuple(text for field_ in fields for text in record.caption(field_))


_FORMATS: Mapping[str, Callable[[Record], _Test]] = MappingProxyType(
    {
        "filename": _sugar_crepe,
        "image_file": _valse,
        "image_path": _aro_pair,
        "image": _aro_order,
        "image_0": _winoground,
    }
)
"""Reader of each format, by the field with the (first) image, in which the formats differ."""


class HardNegatives(Source):
    """SugarCrepe, ARO, VALSE and Winoground: a test split of images with texts of which one is right.

    The format of a record is known by the field that names its image:

    - SugarCrepe: `filename`, with `caption` and `negative_caption`.
    - VALSE: `image_file`, with `caption`, `foil` and `mturk`. Only tests of which at least two of three annotators
      chose the caption are kept, as in the paper.
    - ARO, Visual Genome: `image_path`, with `true_caption`, `false_caption` and the part of the image to show,
      `bbox_x`, `bbox_y`, `bbox_w` and `bbox_h`.
    - ARO, order of COCO and Flickr30K: `image`, with `caption_options`, of which the first is right.
    - Winoground: `image_0`, `image_1`, `caption_0` and `caption_1`. Names without an ending get `.png`.

    A file has a list or an object of records, or, with the ending `.jsonl`, one a line. Its name is the category of its
    tests; for Winoground, `collapsed_tag` is, if there is one. Wrong texts that equal the caption after clean-up are
    left out, and so is a test without any other.

    Args:
        files: JSON files or glob patterns, relative to the root.
        images: The image folder, relative to the root; or one for each file, by the file's name without its ending.
    """

    def __init__(self, files: Sequence[str], images: str | dict[str, str] = "images") -> None:
        self._files = tuple(files)
        self._images = images

    def read(self, root: Path | None, split: str) -> Split:
        """Read the split `test`; see `Source.read`."""
        if split != _SPLIT:
            raise MissingSplitError(
                f"hard negatives: there is no split '{split}'; a benchmark has the split '{_SPLIT}' only: use it with "
                f"`ascl test`, and another source to train or validate"
            )
        root = data_folder(root, "the benchmark's files and images")
        collected = _Collected(root)
        for file in self._found(root):
            collected.add(file, self._folder(file))
        return collected.split()

    def _found(self, root: Path) -> list[Path]:
        files: dict[str, Path] = {}
        for pattern in self._files:
            found = files_named(root, pattern)
            if not found:
                raise UserError(f"there is no file {root / pattern}; check --data.root and the source's `files`")
            for file in found:
                other = files.setdefault(file.stem, file)
                if other != file:
                    raise UserError(f"'{other}' and '{file}' would be one category; rename one of them")
        if not files:
            raise UserError("hard negatives: set the source's `files` to the benchmark's JSON files")
        return list(files.values())

    def _folder(self, file: Path) -> str:
        if isinstance(self._images, str):
            return self._images
        if file.stem not in self._images:
            raise UserError(f"{file}: the source's `images` names no folder for '{file.stem}'")
        return self._images[file.stem]


@dataclass
class _Collected:
    """Tests and images of the files read so far."""

    root: Path
    rows: dict[_Picture, int] = field(default_factory=dict)
    captions: list[dict[str, None]] = field(default_factory=list)
    """Distinct captions of each image."""
    tests: list[Choice] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, file: Path, folder: str) -> None:
        image_folder(self.root / folder)
        for where, value in _values(file):
            record = Record(value, where)
            reader = next((read for name, read in _FORMATS.items() if record.has(name)), None)
            if reader is None:
                raise UserError(f"{where}: has no image: one of the fields {', '.join(_FORMATS)} must name it")
            test = reader(record)
            pictures = [self._picture(record, folder, name, test.suffix) for name in test.image_fields]
            self._keep(test, pictures, file.stem)

    def _picture(self, record: Record, folder: str, name: str, suffix: str) -> _Picture:
        path = name_inside(self.root / folder, record, name)
        return _Picture(folder, path if Path(path).suffix else f"{path}{suffix}", _box(record))

    def _keep(self, test: _Test, pictures: Sequence[_Picture], file: str) -> None:
        texts = _distinct(test.texts)
        if not test.valid or len(texts) < max(2, len(pictures)):
            self.left_out[SAME if test.valid else UNSURE] += 1
            return
        rows = []
        for picture, caption in zip(pictures, texts, strict=False):
            if picture not in self.rows:
                self.rows[picture] = len(self.rows)
                self.captions.append({})
            rows.append(self.rows[picture])
            self.captions[rows[-1]][caption] = None
        self.tests.append(Choice(test.category or file, tuple(rows), texts))

    def split(self) -> Split:
        if not self.tests:
            reasons = "; ".join(f"{count:,}: {reason}" for reason, count in self.left_out.items()) or "they are empty"
            raise UserError(f"hard negatives: no test is left of the files ({reasons})")
        several = len({picture.folder for picture in self.rows}) > 1
        return Split(
            [f"{picture.folder}/{picture.image_id}" if several else picture.image_id for picture in self.rows],
            [tuple(captions) for captions in self.captions],
            _Pictures(self.root, list(self.rows)),
            choices=Choices(tuple(self.tests), dict(self.left_out)),
        )


class _Pictures(Sequence[Path | np.ndarray]):
    """Path of each picture, or the pixels of its part."""

    def __init__(self, root: Path, pictures: Sequence[_Picture]) -> None:
        folders = dict.fromkeys(picture.folder for picture in pictures)
        self._folders = {
            folder: FolderImages(root / folder, [picture.name for picture in pictures]) for folder in folders
        }
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, row: Any) -> Any:
        """A picture.

        Raises:
            UserError: If it is a link out of its folder; for a part, also if it cannot be read.
        """
        picture, path = self._pictures[row], self._path(row)
        return path if picture.box is None else _part(path, picture.box)

    def ends(self, row: int) -> bytes:
        """See `ends_of_picture`; of the whole file, so that a picture that was trained on is recognised by any part."""
        return ends(self._path(row))

    def _path(self, row: int) -> Path:
        return self._folders[self._pictures[row].folder][row]


def _part(path: Path, box: tuple[int, int, int, int]) -> np.ndarray:
    image = open_image(path)
    left, top, width, height = box
    edges = max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height)
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise UserError(f"{path}: the box {box} lies outside of the picture of {image.width} x {image.height} pixels")
    return np.asarray(image.crop(edges))


def _box(record: Record) -> tuple[int, int, int, int] | None:
    if not any(map(record.has, _BOX)):
        return None
    numbers = []
    for name in _BOX:
        number = record.number(name)
        if number is None or (number < 1 and name in _BOX[2:]):
            record.fail(name, "must be a whole number of pixels, and at least 1 for width and height")
        numbers.append(number)
    left, top, width, height = numbers
    return left, top, width, height


def _distinct(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts without those that equal an earlier one after clean-up."""
    by_words: dict[str, str] = {}
    for text in texts:
        by_words.setdefault(clean_caption(text), text)
    return tuple(by_words.values())


def _values(file: Path) -> Iterator[tuple[str, object]]:
    """Place and value of each record of a file."""
    if file.suffix == ".jsonl":
        for number, line in json_lines(file):
            yield f"{file}, line {number}", line
        return
    content = parse_json("".join(read_lines(file)), str(file))
    if isinstance(content, list):
        yield from ((f"{file}, [{number}]", value) for number, value in enumerate(content))
    elif isinstance(content, dict):
        yield from ((f"{file}, {key}", value) for key, value in content.items())
    else:
        raise UserError(f"{file}: expected a list or an object of records")
