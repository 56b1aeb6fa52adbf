from pathlib import Path

import numpy as np
import pytest

from ascl_lightning.data.sources import Source, Split
from ascl_lightning.data.sources.base import missing_split
from ascl_lightning.errors import UserError


class Two(Source):
    def read(self, root: Path | None, split: str) -> Split:
        return Split(["a", "b"], [("x",), ()], [Path("a.jpg"), Path("b.jpg")])


def test_split_holds_images_with_any_number_of_captions() -> None:
    split = Two().read(None, "train")
    assert len(split) == 2
    assert [len(captions) for captions in split.captions] == [1, 0]


def test_split_holds_rendered_pictures() -> None:
    assert len(Split(["a"], [("x",)], np.zeros((1, 8, 8, 3), np.uint8))) == 1


@pytest.mark.parametrize(
    ("ids", "captions", "images"),
    [
        (["a"], [("x",)], []),
        (["a"], [], [Path("a")]),
        ([], [("x",)], [Path("a")]),
        (["a", "a"], [("x",), ("y",)], [Path("a"), Path("b")]),
    ],
)
def test_split_refuses_fields_that_do_not_fit(
    ids: list[str], captions: list[tuple[str, ...]], images: list[Path]
) -> None:
    with pytest.raises(ValueError, match=r"one of each an image|unique"):
        Split(ids, captions, images)


def test_a_split_refuses_numbers_that_do_not_fit_its_captions() -> None:
    with pytest.raises(ValueError, match="2 caption_ids for 3 captions"):
        Split(["a", "b"], [("x", "y"), ("z",)], None, caption_ids=np.array([1, 2]))


@pytest.mark.parametrize(("rows", "numbers"), [([1, 0], [3, 1, 2]), ([2], []), ([], [])])
def test_selected_images_keep_the_numbers_of_their_captions(rows: list[int], numbers: list[int]) -> None:
    split = Split(["a", "b", "c"], [("x", "y"), ("z",), ()], None, caption_ids=np.array([1, 2, 3]))
    assert split.select(rows).caption_ids.tolist() == numbers


def test_nobody_knows_the_ceiling_by_default() -> None:
    assert Two().ceiling(None, "train") == {}


def test_missing_split_lists_what_there_is() -> None:
    error = missing_split("test", {"train": 6000, "val": 1000}, "data.json")
    assert isinstance(error, UserError)
    assert str(error) == (
        "data.json: there is no split 'test'; it has (with numbers of images): train (6,000), val (1,000)"
    )
    assert "none" in str(missing_split("test", {}, "data.json"))
