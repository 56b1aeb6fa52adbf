"""Additional human-verified positives of the COCO 5K test set: the ECCV Caption and CxC protocols.

ECCV Caption (Chun et al., ECCV 2022) and CxC (Parekh et al., EACL 2021) are read from the package `eccv-caption`. It
identifies captions by MSCOCO's annotation numbers, `sentid` in Karpathy's file; its gallery has the first five captions
of each image, 25,000 of the 25,010 in Karpathy's file.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Int, Int64, Integer
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.metrics.precision import ABSENT, Positives

PROTOCOLS = ("eccv", "cxc")
_NUM_IMAGES = 5000
# of the sorted image numbers; identifies the test set without the package
_DIGEST = "baab55c72b3dfc21360e0ff4fda07f11c8318ef71296ecf0b1eaa4558a1dff05"
_NAME = re.compile(r"(?:COCO_\w+_)?0*(\d+)(?:\.\w+)?", re.ASCII)


@dataclass(frozen=True)
class ProtocolPositives:
    """Positives of both directions."""

    image_to_text: Positives
    text_to_image: Positives


def coco_positives(
    protocol: str,
    image_ids: Sequence[str],
    image_of_text: Integer[Tensor, " M"],
    caption_ids: Int64[np.ndarray, " M"] | None,
) -> ProtocolPositives | None:
    """The positives of a split under one of `PROTOCOLS`.

    Args:
        protocol: `eccv` or `cxc`.
        image_ids: COCO number (`391895`) or file name (`COCO_val2014_000000391895.jpg`) of each image.
        image_of_text: Row of each text's image, (M,).
        caption_ids: Annotation number of each text, (M,), from `Split.caption_ids`; None if unknown.

    Returns:
        Positives by row of image and text, on the device of `image_of_text`; None if the split is not the COCO 5K test
        set.

    Raises:
        UserError: If it is that test set, but the package is not installed, caption numbers are unknown, a caption that
            the protocol ranks is missing, or a caption belongs to another image.
    """
    numbers = _coco_numbers(image_ids) if len(image_ids) == _NUM_IMAGES else None
    if numbers is None:
        return None
    own = _read("original_caption_to_image")
    image_rows = {number: row for row, number in enumerate(numbers)}
    caption_rows = _caption_rows(
        caption_ids, {caption: image_rows[image] for caption, (image,) in own.items()}, image_of_text
    )
    device = image_of_text.device
    captions = torch.tensor(sorted(caption_rows.values()), device=device)
    images, their_texts = _pairs(_read(f"{protocol}_image_to_caption"), image_rows, caption_rows).to(device)
    texts, their_images = _pairs(_read(f"{protocol}_caption_to_image"), caption_rows, image_rows).to(device)
    return ProtocolPositives(Positives(images, their_texts, gallery=captions), Positives(texts, their_images))


def _coco_numbers(image_ids: Iterable[str]) -> list[int] | None:
    """The COCO number of each image; None if they are not those of the test set."""
    found = [_NAME.fullmatch(PurePosixPath(name).name) for name in image_ids]
    numbers = [int(match[1]) for match in found if match is not None]
    digest = sha256(" ".join(map(str, sorted(numbers))).encode()).hexdigest()
    return numbers if digest == _DIGEST else None


def _caption_rows(
    caption_ids: np.ndarray | None, image_rows: dict[int, int], image_of_text: Integer[Tensor, " M"]
) -> dict[int, int]:
    """The row of each caption that the protocols rank; `image_rows` gives the row of its image."""
    if caption_ids is None:
        raise UserError(
            "ECCV Caption and CxC need the COCO numbers of captions, which this split lacks: read the test split with "
            "KarpathyJson, from a dataset_coco.json with 'sentid', or with CocoCaptions; extract features again from it"
        )
    rows = {caption: row for row, caption in enumerate(caption_ids.tolist()) if caption in image_rows}
    missing = sorted(image_rows.keys() - rows.keys())
    if missing:
        raise UserError(
            f"ECCV Caption and CxC rank 25,000 captions of the COCO test set, but this split lacks {len(missing):,} of "
            f"them, such as number {missing[0]}: use all captions of dataset_coco.json"
        )
    owners = image_of_text.tolist()
    for caption, row in rows.items():
        if owners[row] != image_rows[caption]:
            raise UserError(
                f"caption {caption} belongs to another image than in ECCV Caption and CxC: use MSCOCO's numbers "
                "(`sentid`)"
            )
    return rows


def _pairs(answers: dict[int, list[int]], query_rows: dict[int, int], item_rows: dict[int, int]) -> Int[Tensor, "2 P"]:
    pairs = [(query_rows[query], item_rows.get(item, ABSENT)) for query, items in answers.items() for item in items]
    return torch.tensor(pairs).T


def _read(name: str) -> dict[int, list[int]]:
    """Reads a file of the package without importing it, which would warn if `ujson` is missing."""
    package = find_spec("eccv_caption")
    if package is None or package.origin is None:
        raise UserError(
            "this is the COCO 5K test set; for ECCV Caption and CxC, install the package of their positives: "
            "pip install 'ascl-lightning[protocols]'"
        )
    content = json.loads((Path(package.origin).parent / "data" / f"{name}.json").read_bytes())
    return {int(query): [int(item) for item in items] for query, items in content.items()}
