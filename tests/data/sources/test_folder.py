from pathlib import Path

import pytest
from tests.helpers.datasets import write_picture

from ascl_lightning.data.sources import CaptionFolder
from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.errors import UserError


def write(root: Path, **texts: str | None) -> CaptionFolder:
    """Pictures of the split `train`, named with `__` for `/`, and their captions."""
    for index, (name, text) in enumerate(texts.items()):
        path = root / "train" / f"{name.replace('__', '/')}.png"
        write_picture(path, index)
        if text is not None:
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return CaptionFolder()


def test_images_at_any_depth_by_their_paths(tmp_path: Path) -> None:
    source = write(tmp_path, b="two\nlines\n", a="one", sub__deep__c="three", sub__b=None)
    (tmp_path / "train" / "notes.md").write_text("left alone")
    split = source.read(tmp_path, "train")
    assert split.image_ids == ["a.png", "b.png", "sub/b.png", "sub/deep/c.png"]
    assert list(split.captions) == [("one",), ("two", "lines"), (), ("three",)]
    assert [path.relative_to(tmp_path / "train").as_posix() for path in split.images] == split.image_ids


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "Png", "webp", "gif", "bmp", "tif", "tiff"])
def test_images_of_every_kind(tmp_path: Path, ending: str) -> None:
    write_picture(tmp_path / "train" / "a.png", 0)
    (tmp_path / "train" / "a.png").rename(tmp_path / "train" / f"a.{ending}")
    (tmp_path / "train" / "a.txt").write_text("x")
    assert CaptionFolder().read(tmp_path, "train").image_ids == [f"a.{ending}"]


def test_spaces_around_a_caption_and_empty_lines_are_none(tmp_path: Path) -> None:
    split = write(tmp_path, a="\n  one  \r\n\u3000\n\ttwo\n", b="\n").read(tmp_path, "train")
    assert list(split.captions) == [("one", "two"), ()]


def test_a_byte_order_mark_is_removed(tmp_path: Path) -> None:
    assert list(write(tmp_path, a="\ufeffone").read(tmp_path, "train").captions) == [("one",)]


@pytest.mark.parametrize("split", ["dev", "", ".", "..", "train/sub", "notes.txt"])
def test_a_missing_split_is_named_with_the_existing_ones(tmp_path: Path, split: str) -> None:
    source = write(tmp_path, a="x", sub__b="y")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "val").mkdir()
    with pytest.raises(MissingSplitError, match=rf"there is no split '{split}'; .* train \(2\), val \(0\)"):
        source.read(tmp_path, split)


def test_folders_without_images_or_captions_are_errors(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"train: holds no images \(\.bmp, \.gif"):
        CaptionFolder().read(tmp_path, "train")
    with pytest.raises(UserError, match=r"train: no image has a text file with captions, such as"):
        write(tmp_path, a=None, b="\n").read(tmp_path, "train")


def test_a_text_without_its_image_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path, a="x")
    (tmp_path / "train" / "b.txt").write_text("forgotten")
    with pytest.raises(UserError, match=r"b\.txt: there is no image of this name"):
        source.read(tmp_path, "train")


def test_linked_folders_are_skipped(tmp_path: Path) -> None:
    source = write(tmp_path, a="x")
    (tmp_path / "train" / "loop").symlink_to(tmp_path / "train")
    assert source.read(tmp_path, "train").image_ids == ["a.png"]
