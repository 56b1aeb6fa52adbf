"""The same faults in the files of every source: an error names file, row and field, or the counts are exact."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tests.helpers.layouts import ALL_LAYOUTS, LAYOUTS, Content

from ascl_lightning.data.sources import ParquetTable, Source, Split
from ascl_lightning.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where the second caption of the second image stands."""

    row: str
    field: str
    utf8: str
    """How it is refused where it is not UTF-8."""


NOT_UTF8 = r"not UTF-8 text \(byte 0xff"
PLACES = {
    "jsonl": Place(r"train\.jsonl, line 2", r"captions\[1\]", rf"train\.jsonl, line 2: {NOT_UTF8}, number 43"),
    "csv": Place(r"all\.csv, line 5", "caption", rf"all\.csv, line 5: {NOT_UTF8}, number 13"),
    "parquet": Place(r"all\.parquet, row 1", r"captions\[1\]", rf"all\.parquet, row 1: field 'captions' is {NOT_UTF8}"),
    "karpathy": Place(
        r"dataset\.json, images\[1\], sentences\[1\]", "raw", rf"dataset\.json, line 1: {NOT_UTF8}, number \d+"
    ),
    "coco": Place(r"train\.json, annotations\[3\]", "caption", rf"train\.json, line 1: {NOT_UTF8}, number \d+"),
    "flickr_tokens": Place(r"results\.token, line 4", "caption", rf"results\.token, line 4: {NOT_UTF8}, number 9"),
    "flickr30k_hub": Place(
        r"flickr_annotations_30k\.csv, line 3", r"raw\[1\]", rf"annotations_30k\.csv, line 3: {NOT_UTF8}, number 16"
    ),
    "caption_folder": Place("", "", rf"train/b\.txt, line 2: {NOT_UTF8}, number 1"),
    "webdataset": Place(r"train-000000\.tar, b\.json", r"captions\[1\]", rf"000000\.tar, b\.json: {NOT_UTF8}"),
    "hub_parquet": Place("hub, train, row 1", r"caption\[1\]", "hub, train, row 1: field 'caption' is not UTF-8 text"),
    "hub_arrow": Place("hub, train, row 1", r"caption\[1\]", "hub, train, row 1: field 'caption' is not UTF-8 text"),
    "hard_negatives": Place(r"made_up\.json, 3", "caption", rf"made_up\.json, line 1: {NOT_UTF8}, number \d+"),
    # the library reads the text itself
    "hub_imagefolder": Place("hub, train, row 1", r"caption\[1\]", "cannot load the folder .*hub: UnicodeDecodeError"),
}
MARK = "QZQZ"
CONTENT: Content = {"train": [("a.png", ("one", "two")), ("b.png", ("three", MARK))], "val": [("v.png", ("x",))]}


def write(root: Path, layout: str, old: bytes = b"", new: bytes = b"", content: Content = CONTENT) -> Source:
    """Write a layout, and put other bytes of the same length into its files."""
    source = ALL_LAYOUTS[layout].write(root, content)
    for path in root.rglob("*"):
        if old and path.is_file() and path.suffix != ".png":
            path.write_bytes(path.read_bytes().replace(old, new))
    return source


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_the_tag_is_read_unchanged(tmp_path: Path, layout: str) -> None:
    source = write(tmp_path, layout, MARK.encode(), b"four")
    assert by_id(source.read(tmp_path, ALL_LAYOUTS[layout].split), layout) == {
        "a.png": ("one", "two"),
        "b.png": ("three", "four"),
    }


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_bad_utf8(tmp_path: Path, layout: str) -> None:
    source = write(tmp_path, layout, MARK.encode(), b"\xffxyz")
    with pytest.raises(UserError, match=PLACES[layout].utf8):
        source.read(tmp_path, ALL_LAYOUTS[layout].split)


@pytest.mark.parametrize("layout", sorted(ALL_LAYOUTS.keys() - {"caption_folder"}))
def test_a_blank_caption(tmp_path: Path, layout: str) -> None:
    source = write(tmp_path, layout, MARK.encode(), b"    ")
    with pytest.raises(UserError, match=f"{PLACES[layout].row}: field '{PLACES[layout].field}' is blank"):
        source.read(tmp_path, ALL_LAYOUTS[layout].split)


def test_an_empty_line_of_a_text_file_is_no_caption(tmp_path: Path) -> None:
    split = write(tmp_path, "caption_folder", MARK.encode(), b"  \n\n").read(tmp_path, "train")
    assert by_id(split, "caption_folder") == {"a.png": ("one", "two"), "b.png": ("three",)}


TWICE: Content = {"train": [("a.png", ("one",)), ("b.png", ("two",)), ("a.png", ("three",))], "val": CONTENT["val"]}
REPEATS = {
    "jsonl": r"train\.jsonl, line 3: field 'image' repeats the image 'a\.png' of .*train\.jsonl, line 1",
    "parquet": r"all\.parquet, row 2: field 'image' repeats the image 'a\.png' of .*all\.parquet, row 0",
    "karpathy": r"dataset\.json, images\[2\]: field 'filename' repeats the image 'a\.png' of .*images\[0\]",
    "coco": r"train\.json, images\[2\]: field 'id' repeats the image 'a\.png' of .*images\[0\]",
    "flickr_tokens": r"train\.txt, line 3: field 'image' repeats the image 'a\.png' of .*train\.txt, line 1",
    "flickr30k_hub": r"30k\.csv, line 4: field 'filename' repeats the image 'a\.png' of .*30k\.csv, line 2",
    "webdataset": r"train-000001\.tar, a: field '__key__' repeats the image 'a' of .*train-000000\.tar, a",
}


@pytest.mark.parametrize("layout", REPEATS)
def test_a_repeated_image(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match=REPEATS[layout]):
        write(tmp_path, layout, content=TWICE).read(tmp_path, "train")


@pytest.mark.parametrize("layout", ["csv", "hub_parquet", "hub_arrow", "hub_imagefolder", "hard_negatives"])
def test_rows_of_one_image_join(tmp_path: Path, layout: str) -> None:
    """Where a row is a caption, or the user names the column that tells images apart."""
    split = write(tmp_path, layout, content=TWICE).read(tmp_path, ALL_LAYOUTS[layout].split)
    assert by_id(split, layout) == {"a.png": ("one", "three"), "b.png": ("two",)}
    assert split.num_captions.tolist() == [2, 1]


MISSING = {
    "jsonl": (b'"image"', b'"imaga"', r"train\.jsonl, line 1: field 'image' is missing"),
    "csv": (b"image,", b"imaga,", r"all\.csv, line 1: must name one column 'image'; it names: split, imaga, caption"),
    "karpathy": (b'"filename"', b'"filenama"', r"dataset\.json, images\[0\]: field 'filename' is missing"),
    "coco": (b'"id"', b'"ia"', r"train\.json, images\[0\]: field 'id' is missing"),
    "flickr_tokens": (b"a.png#0", b"a.png-0", r"results\.token, line 1: field 'image' must be NAME#NUMBER"),
    "flickr30k_hub": (b"filename", b"filenama", r"30k\.csv, line 1: must name one column 'filename'"),
    "hard_negatives": (b'"filename"', b'"filenama"', r"made_up\.json, 0: has no image: one of the fields filename, "),
    "hub_imagefolder": (b'"name"', b'"nama"', "hub: there is no column 'name'; it has: image, nama, caption"),
}


@pytest.mark.parametrize("layout", MISSING)
def test_an_id_that_is_missing(tmp_path: Path, layout: str) -> None:
    old, new, message = MISSING[layout]
    with pytest.raises(UserError, match=message):
        write(tmp_path, layout, old, new).read(tmp_path, ALL_LAYOUTS[layout].split)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"field 'image' must be text, not null"),
        ("", r"field 'image' is blank"),
        (" \u3000", r"field 'image' is blank"),
    ],
)
def test_a_null_or_blank_id_in_parquet(tmp_path: Path, image: str | None, message: str) -> None:
    rows = [{"image": "a.png", "caption": "one"}, {"image": image, "caption": "two"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=rf"t\.parquet, row 1: {message}"):
        ParquetTable({"train": "t.parquet"}).read(tmp_path, "train")


@pytest.mark.parametrize("field", ["image", "caption", "image_id", "captions"])
def test_every_text_column_of_parquet_is_checked(tmp_path: Path, field: str) -> None:
    bad = pa.array([b"fine", b"bad \xe9"], pa.binary()).view(pa.string())
    columns = {"image": pa.array(["a.png", "b.png"]), "caption": pa.array(["one", "two"]), field: bad}
    if field == "captions":
        columns[field] = pa.ListArray.from_arrays([0, 0, 2], bad)
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=rf"t\.parquet, row 1: field '{field}' is not UTF-8 text \(byte 0xe9\)"):
        ParquetTable({"train": "t.parquet"}).read(tmp_path, "train")


TEXT = st.sampled_from(["a dog", "🐕", "\u202eאב", "x " * 10_000, "tab\there", '"', ",", "\u00a0é"])
BLANK = st.sampled_from(["", " ", "\u3000", "\u00a0", "\x1c"])


@pytest.mark.parametrize("layout", ["jsonl", "csv", "parquet", "karpathy", "coco", "flickr30k_hub", "webdataset"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(captions=st.lists(st.lists(TEXT | TEXT | TEXT | BLANK, max_size=12), min_size=1, max_size=4).filter(any))
def test_exact_counts_or_an_error_of_the_blank_one(
    tmp_path_factory: pytest.TempPathFactory, layout: str, captions: Sequence[Sequence[str]]
) -> None:
    if LAYOUTS[layout].needs_captions:
        captions = [of_image for of_image in captions if of_image]
    root = tmp_path_factory.mktemp(layout)
    content = {"train": [(f"{i}.png", tuple(of_image)) for i, of_image in enumerate(captions)]}
    source = LAYOUTS[layout].write(root, content)
    if any(not text.strip() for of_image in captions for text in of_image):
        with pytest.raises(UserError, match=r"field '.*' is blank") as caught:
            source.read(root, "train")
        assert str(root) in str(caught.value)
        return
    split = source.read(root, "train")
    assert by_id(split, layout) == dict(content["train"])
    assert split.num_captions.tolist() == [len(texts) for texts in split.captions]


def by_id(split: Split, layout: str) -> dict[str, tuple[str, ...]]:
    ending = "" if ALL_LAYOUTS[layout].image_id("a.png") == "a.png" else ".png"
    return {f"{name}{ending}": texts for name, texts in zip(split.image_ids, split.captions, strict=True)}
