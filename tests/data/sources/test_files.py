import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascl_lightning.data.sources.files import (
    FolderImages,
    data_folder,
    image_folder,
    name_inside,
    parse_json,
    read_json,
    read_lines,
    register_image_id,
)
from ascl_lightning.data.sources.records import Record
from ascl_lightning.errors import UserError


def raises_naming(*parts: str) -> AbstractContextManager[Any]:
    """The error is one line that says all of `parts`, in this order."""
    return pytest.raises(UserError, match="^.*" + ".*".join(map(re.escape, parts)) + ".*$")


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", ".", "a\0b.jpg"])
def test_no_name_leads_outside_the_folder(tmp_path: Path, name: str) -> None:
    with raises_naming("f, line 2: field 'image'", "must name a path inside", str(tmp_path)):
        name_inside(tmp_path, Record({"image": name}, "f, line 2"), "image")


def test_names_inside_the_folder_are_joined(tmp_path: Path) -> None:
    record = Record({"image": "a b/..c.jpg"}, "f")
    images = FolderImages(tmp_path, [name_inside(tmp_path, record, "image")])
    assert list(images) == list(images[:]) == [tmp_path / "a b" / "..c.jpg"]


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"secret")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "own.jpg").write_bytes(b"own")
    (folder / "inner.jpg").symlink_to(folder / "own.jpg")
    (folder / "outer.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (folder / "below").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(folder)
    names = ["own.jpg", "inner.jpg", "outer.jpg", "below/a.jpg"]
    for images in (FolderImages(folder, names), FolderImages(tmp_path / "linked", names)):
        assert [images[row].read_bytes() for row in (0, 1)] == [b"own", b"own"]
        for row in (2, 3):
            with raises_naming(names[row], "a symbolic link that leads out of", "is not followed"):
                images[row]


def test_repeated_ids_name_both_places() -> None:
    places = {"a": "f, line 1"}
    register_image_id(places, "b", Record({}, "f, line 2"), "id")
    with raises_naming("f, line 3: field 'id' repeats the image 'b' of f, line 2"):
        register_image_id(places, "b", Record({}, "f, line 3"), "id")


def test_folders_must_exist(tmp_path: Path) -> None:
    assert data_folder(tmp_path, "x.json") == tmp_path
    assert image_folder(tmp_path) == tmp_path
    with raises_naming("set --data.root to the folder that holds x.json"):
        data_folder(None, "x.json")
    with raises_naming("--data.root", str(tmp_path / "no"), "x.json"):
        data_folder(tmp_path / "no", "x.json")
    with raises_naming("there is no image folder", str(tmp_path / "no")):
        image_folder(tmp_path / "no")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b'{"a":\n 1,\n]}', ("line 3, column 1",)),
        (b'{"a": ', ("broken JSON at column",)),
        (b"", ("broken JSON",)),
        (b"[1]", ("expected an object with fields, found a list",)),
        (b'{"a":\n"\xff"}', ("line 2", "not UTF-8", "0xff")),
        (b'{"a": ' + b"9" * 5000 + b"}", ("unusable JSON",)),
        (b"[" * 100_000, ("unusable JSON",)),
    ],
)
def test_broken_json_files_are_named(tmp_path: Path, content: bytes, parts: tuple[str, ...]) -> None:
    file = tmp_path / "f.json"
    file.write_bytes(content)
    with raises_naming(str(file), *parts):
        read_json(file)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_json, lambda file: list(read_lines(file))):
        with raises_naming("there is no file", str(tmp_path / "f")):
            read(tmp_path / "f")
        with raises_naming(str(tmp_path), "cannot be read"):
            read(tmp_path)


def test_byte_order_marks_are_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"\xef\xbb\xbf{}\n\xef\xbb\xbfx\n")
    assert list(read_lines(file)) == ["{}\n", "\ufeffx\n"]


def test_lines_that_are_not_utf8_are_numbered(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a\nb\n\xe9\n")
    with raises_naming(f"{file}, line 3: not UTF-8"):
        list(read_lines(file))


@given(st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_json_round_trip(value: object) -> None:
    assert parse_json(json.dumps(value), "x") == value
