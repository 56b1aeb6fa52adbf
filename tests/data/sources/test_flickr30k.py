import json
from pathlib import Path

import pytest
from tests.helpers.layouts import LAYOUTS, Content

from ascl_lightning.data.sources import Flickr30kHub, FlickrTokens
from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.errors import UserError

CONTENT: Content = {"train": [("1.jpg", ("one", "two")), ("2.jpg", ("three",))], "test": [("3.jpg", ("four",))]}


def tokens(root: Path, token: str, listed: str = "1.jpg\n") -> FlickrTokens:
    (root / "flickr30k-images").mkdir(exist_ok=True)
    (root / "results.token").write_text(token, encoding="utf-8")
    (root / "train.txt").write_text(listed, encoding="utf-8")
    return FlickrTokens("results.token", {"train": "train.txt"})


def test_lists_name_images_with_or_without_their_ending(tmp_path: Path) -> None:
    source = tokens(tmp_path, "1.jpg#0\tone\n2.jpg#0\ttwo\n\n1.jpg#1\tthree\tand a tab\n", "2\n\n 1.jpg \n")
    split = source.read(tmp_path, "train")
    assert split.image_ids == ["2.jpg", "1.jpg"]
    assert list(split.captions) == [("two",), ("one", "three\tand a tab")]
    assert list(split.images) == [tmp_path / "flickr30k-images" / name for name in ("2.jpg", "1.jpg")]


def test_a_name_may_hold_a_hash(tmp_path: Path) -> None:
    assert tokens(tmp_path, "a#b.jpg#12\tone\n", "a#b.jpg").read(tmp_path, "train").image_ids == ["a#b.jpg"]


@pytest.mark.parametrize("layout", ["flickr_tokens", "flickr30k_hub"])
def test_region_features_need_no_pictures(tmp_path: Path, layout: str) -> None:
    source = LAYOUTS[layout].write(tmp_path, CONTENT)
    (tmp_path / "flickr30k-images").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="there is no image folder"):
        source.read(tmp_path, "train")
    source.images = None
    split = source.read(tmp_path, "train")
    assert (split.image_ids, split.images) == (["1.jpg", "2.jpg"], None)


@pytest.mark.parametrize("layout", ["flickr_tokens", "flickr30k_hub"])
def test_a_missing_split_is_listed_with_the_others(tmp_path: Path, layout: str) -> None:
    source = LAYOUTS[layout].write(tmp_path, CONTENT)
    with pytest.raises(MissingSplitError, match=r"no split 'val'; .* train \(2\), test \(1\)"):
        source.read(tmp_path, "val")


@pytest.mark.parametrize(
    ("token", "listed", "message"),
    [
        ("1.jpg\tone\n", "1\n", r"results\.token, line 1: field 'image' must be NAME#NUMBER, not '1\.jpg'"),
        ("1.jpg#a\tone\n", "1\n", r"line 1: field 'image' must be NAME#NUMBER"),
        ("1.jpg#0 one\n", "1\n", r"line 1: field 'image' must be NAME#NUMBER"),
        ("1.jpg#0\n", "1\n", r"results\.token, line 1: field 'caption' is missing"),
        ("1.jpg#0\tone\n", "1\n4\n", r"train\.txt, line 2: field 'image' names '4', which .*results\.token does not"),
        ("1.jpg#0\tone\n", "1\n1.jpg\n", r"train\.txt, line 2: field 'image' repeats the image '1\.jpg' of"),
        ("../1.jpg#0\tone\n", "../1.jpg\n", r"train\.txt, line 1: field 'image' must name a path inside"),
    ],
)
def test_errors_of_tokens_name_file_row_and_field(tmp_path: Path, token: str, listed: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokens(tmp_path, token, listed).read(tmp_path, "train")


def hub(root: Path, raw: str, split: str = "train", filename: str = "1.jpg") -> Flickr30kHub:
    (root / "flickr30k-images").mkdir()
    cell = raw.replace('"', '""')
    (root / "flickr_annotations_30k.csv").write_text(f'raw,split,filename\n"{cell}",{split},{filename}\n')
    return Flickr30kHub()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("[one]", "line 2, field 'raw': broken JSON at column 2"),
        ("{}", "line 2: field 'raw' must be a list, not an object"),
        ("[1]", r"line 2: field 'raw\[0\]' must be text, not a number"),
        ("", "line 2: field 'raw' is blank"),
    ],
)
def test_errors_of_the_hubs_table_name_file_row_and_field(tmp_path: Path, raw: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"flickr_annotations_30k\.csv, {message}"):
        hub(tmp_path, raw).read(tmp_path, "train")


@pytest.mark.parametrize("filename", ["../1.jpg", "/1.jpg"])
def test_names_of_the_hubs_table_stay_in_the_folder(tmp_path: Path, filename: str) -> None:
    with pytest.raises(UserError, match="line 2: field 'filename' must name a path inside"):
        hub(tmp_path, json.dumps(["x"]), filename=filename).read(tmp_path, "train")
