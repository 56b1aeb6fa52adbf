import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascl_lightning.data.sources import CsvTable, JsonLines, Source
from ascl_lightning.errors import UserError

# any text that is not blank and can be written; NUL is refused by the csv module of Python 3.10
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(str.strip)


def write_jsonl(root: Path, *rows: Any, name: str = "d.jsonl") -> JsonLines:
    (root / name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return JsonLines({"train": name})


def write_csv(root: Path, *rows: Sequence[str], name: str = "d.csv") -> CsvTable:
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return CsvTable({"train": name})


def test_jsonl_lists_and_single_captions(tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path,
        {"image": "x/a.jpg", "captions": ["one", "two", "three"], "width": 3},
        {"image": "b.jpg", "caption": "first"},
        {"image": "c.jpg", "captions": [], "image_id": 42},
        {"image": "b.jpg", "caption": "second"},
    )
    split = source.read(tmp_path, "train")
    assert split.image_ids == ["x/a.jpg", "b.jpg", "42"]
    assert list(split.captions) == [("one", "two", "three"), ("first", "second"), ()]
    assert list(split.images) == [tmp_path / "x" / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg"]


def test_csv_rows_of_an_image_join_in_order(tmp_path: Path) -> None:
    rows = ["image", "note", "caption"], ["a.jpg", "", "z, quoted"], ["b.jpg", "", 'two\nlines "x"'], ["a.jpg", "", "y"]
    split = write_csv(tmp_path, *rows).read(tmp_path, "train")
    assert split.image_ids == ["a.jpg", "b.jpg"]
    assert list(split.captions) == [("z, quoted", "y"), ('two\nlines "x"',)]


def test_spreadsheets_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes("\ufeffimage,caption\r\n\r\na.jpg,كلب 🐕\r\n\r\n".encode())
    (tmp_path / "d.jsonl").write_bytes('\ufeff{"image": "a.jpg", "caption": "كلب 🐕"}\r\n\r\n'.encode())
    for source in (CsvTable({"train": "d.csv"}), JsonLines({"train": "d.jsonl"})):
        assert source.read(tmp_path, "train").captions[:] == [("كلب 🐕",)]


def one_file(root: Path, kind: str, splits: Sequence[str]) -> Source:
    """Five images in one file with a field `split`."""
    if kind == "jsonl":
        write_jsonl(root, *({"image": f"{i}.jpg", "caption": "x", "split": s} for i, s in enumerate(splits)))
        return JsonLines("d.jsonl")
    write_csv(root, ["image", "caption", "split"], *([f"{i}.jpg", "x", s] for i, s in enumerate(splits)))
    return CsvTable("d.csv")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_one_file_with_a_split_field(tmp_path: Path, kind: str) -> None:
    source = one_file(tmp_path, kind, ["train", "val", "train", "test", "train"])
    assert list(source.read(tmp_path, "train").image_ids) == ["0.jpg", "2.jpg", "4.jpg"]
    assert list(source.read(tmp_path, "test").image_ids) == ["3.jpg"]
    with pytest.raises(UserError, match=r"no split 'dev'; it has .*train \(3\), val \(1\), test \(1\)"):
        source.read(tmp_path, "dev")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_of_several_splits_is_not_read_as_one(tmp_path: Path, kind: str) -> None:
    one_file(tmp_path, kind, ["validation", "validation", "test"])
    files = {"train": f"d.{kind}"}
    source = JsonLines(files) if kind == "jsonl" else CsvTable(files)
    with pytest.raises(UserError, match=rf"line [34]: field 'split' differs from earlier rows.*files: d\.{kind}"):
        source.read(tmp_path, "train")
    # one value throughout says nothing against the name that the configuration gives
    one_file(tmp_path, kind, ["validation", "validation"])
    assert len(source.read(tmp_path, "train")) == 2


def test_one_file_a_split(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    write_jsonl(tmp_path, {"image": "a.jpg", "caption": "x"}, name="t.jsonl")
    write_jsonl(tmp_path, {"image": "b.jpg", "caption": "x"}, {"image": "c.jpg", "caption": "x"}, name="v.jsonl")
    source = JsonLines({"train": "t.jsonl", "val": "v.jsonl"}, images="pictures")
    assert list(source.read(tmp_path, "val").images) == [tmp_path / "pictures" / name for name in ("b.jpg", "c.jpg")]
    with pytest.raises(UserError, match=r"no split 'test'; it has .*train \(1\), val \(2\)"):
        source.read(tmp_path, "test")


def test_one_file_needs_its_split_field(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"image": "a.jpg", "caption": "x"})
    with pytest.raises(UserError, match=r"d\.jsonl, line 1: field 'split' is missing; add it, or give `files`"):
        JsonLines("d.jsonl").read(tmp_path, "train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "line 2: expected an object with fields, found a list"),
        ({"caption": "x"}, "line 2: field 'image' is missing"),
        ({"image": "b.jpg"}, "line 2: field 'caption' is missing"),
        ({"image": "b.jpg", "captions": None}, "line 2: field 'caption' is missing"),
        (
            {"image": "b.jpg", "caption": "x", "captions": ["y"]},
            "line 2: field 'caption' is given in addition to",
        ),
        ({"image": "b.jpg", "captions": "x"}, "line 2: field 'captions' must be a list, not text"),
        ({"image": "b.jpg", "captions": ["x", "\t"]}, r"line 2: field 'captions\[1\]' is blank"),
        ({"image": "b.jpg", "captions": ["x", 5]}, r"line 2: field 'captions\[1\]' must be text, not a number"),
        ({"image": "../b.jpg", "caption": "x"}, "line 2: field 'image' must name a path inside"),
        ({"image": "/b.jpg", "caption": "x"}, "line 2: field 'image' must name a path inside"),
        ({"image": "a.jpg", "captions": ["y"]}, r"line 2: field 'image' repeats the image 'a.jpg' of .*line 1"),
        (
            {"image": "b.jpg", "image_id": "a.jpg", "caption": "y"},
            "line 2: field 'image_id' repeats 'a.jpg' of .*line 1",
        ),
        ({"image": "b.jpg", "image_id": 1.5, "caption": "y"}, "line 2: field 'image_id' must be text"),
    ],
)
def test_jsonl_errors_name_file_row_and_field(tmp_path: Path, row: Any, message: str) -> None:
    source = write_jsonl(tmp_path, {"image": "a.jpg", "caption": "x"}, row)
    with pytest.raises(UserError, match=r"d\.jsonl, " + message):
        source.read(tmp_path, "train")


def test_a_list_followed_by_a_single_caption_is_an_error(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path, {"image": "a.jpg", "captions": ["x"]}, {"image": "a.jpg", "caption": "y"})
    with pytest.raises(UserError, match=r"line 2: field 'image' repeats the image 'a\.jpg'"):
        source.read(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"image": "a.jpg", "caption": "x"}\n{"image":\n', "line 2: broken JSON at column 10"),
        (b'{"image": "a.jpg", "caption": "x"}\n\xff\n', "line 2: not UTF-8"),
        (b"", "holds no rows"),
        (b"\n\n", "holds no rows"),
    ],
)
def test_broken_jsonl(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        JsonLines({"train": "d.jsonl"}).read(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: must name one column 'image'"),
        (b"image,text\na.jpg,x\n", "line 1: must name one column 'caption'; it names: image, text"),
        (b"image,caption,caption\n", "line 1: must name one column 'caption'"),
        (b"image,caption,split,split\n", "line 1: must name one column 'split'"),
        (b"image,caption\n", "holds no rows"),
        (b"image,caption\na.jpg,x,y\n", "line 2: has 3 cells, the header 2"),
        (b'image,caption\na.jpg,"x\ny"\nb.jpg\n', "line 4: has 1 cells, the header 2"),
        (b'image,caption\na.jpg,x\nb.jpg,"y\nc.jpg,z\n', "line 3: broken CSV"),
        (b"image,caption\na.jpg,x\nb.jpg,\xe9\n", "line 3: not UTF-8"),
        (b"image,caption\na.jpg,  \n", "line 2: field 'caption' is blank"),
        (b"image,caption\n../a.jpg,x\n", "line 2: field 'image' must name a path inside"),
        (b"image,caption,image_id\na.jpg,x,1\nb.jpg,x,1\n", "line 3: field 'image_id' repeats '1' of .*line 2"),
    ],
)
def test_csv_errors_name_file_row_and_field(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"d\.csv.*" + message):
        CsvTable({"train": "d.csv"}).read(tmp_path, "train")


def test_missing_folders_are_errors_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no image folder .*pictures"):
        JsonLines({"train": "d.jsonl"}, images="pictures").read(tmp_path, "train")
    with pytest.raises(UserError, match=r"there is no file .*d\.jsonl"):
        JsonLines("d.jsonl").read(tmp_path, "train")
    with pytest.raises(UserError, match=r"set --data\.root to the folder that holds a\.csv, b\.csv"):
        CsvTable({"train": "a.csv", "val": "b.csv"}).read(None, "train")


@settings(max_examples=40, deadline=None)
@given(captions=st.lists(st.lists(TEXTS, max_size=12), min_size=1, max_size=6))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, captions: list[list[str]]) -> None:
    root = tmp_path_factory.mktemp("jsonl")
    rows = [{"image": f"{i}.jpg", "captions": texts} for i, texts in enumerate(captions)]
    split = write_jsonl(root, *rows).read(root, "train")
    assert list(split.captions) == [tuple(texts) for texts in captions]
    singles = [{"image": f"{i}.jpg", "caption": text} for i, texts in enumerate(captions) for text in texts]
    if singles:
        assert list(write_jsonl(root, *singles).read(root, "train").captions) == [
            tuple(texts) for texts in captions if texts
        ]


@settings(max_examples=40, deadline=None)
@given(captions=st.lists(st.lists(TEXTS, min_size=1, max_size=7), min_size=1, max_size=6))
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, captions: list[list[str]]) -> None:
    root = tmp_path_factory.mktemp("csv")
    rows = [(f"{i}.jpg", text) for i, texts in enumerate(captions) for text in texts]
    split = write_csv(root, ("image", "caption"), *rows).read(root, "train")
    assert list(split.captions) == [tuple(texts) for texts in captions]


def test_ten_thousand_words(tmp_path: Path) -> None:
    text = "word " * 10_000
    assert list(write_jsonl(tmp_path, {"image": "a", "caption": text}).read(tmp_path, "train").captions) == [(text,)]
    assert write_csv(tmp_path, ["image", "caption"], ["a", text]).read(tmp_path, "train").captions[:] == [(text,)]
