"""Which files of a folder are pictures of a gallery, and which are not opened."""

import os
from pathlib import Path

import pytest
import torch
from tests.helpers.galleries import write_pictures

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.inputs import read_pictures
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.pictures import Fault, Picture, hash_of_file, list_pictures, read_picture

SPEC = PixelSpec(32, (0.5,) * 3, (0.5,) * 3)


def test_pictures_at_any_depth_with_their_captions(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b.PNG", "a/c.jpg", "a/d.webp"], {"a/c.jpg": ["a dog ", "", "two dogs"]})
    (tmp_path / "notes.txt").write_text("no caption")
    (tmp_path / "a" / ".c.jpg").touch()
    (tmp_path / ".cache").mkdir()
    write_pictures(tmp_path / ".cache", ["e.jpg"])
    found = list_pictures(tmp_path)
    assert list(found.stamps) == ["b.PNG", "a/c.jpg", "a/d.webp"]
    assert found.captions == {"a/c.jpg": ("a dog", "two dogs")}
    assert found.refused == {}
    status = (tmp_path / "b.PNG").stat()
    assert (found.stamps["b.PNG"].size, found.stamps["b.PNG"].mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_links_inside_are_pictures_and_others_are_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_pictures(images, ["a.png"])
    write_pictures(tmp_path / "secret", ["s.png"])
    (images / "inside.png").symlink_to("a.png")
    (images / "outside.png").symlink_to(tmp_path / "secret" / "s.png")
    (images / "nothing.png").symlink_to("nowhere.png")
    (images / "loop.png").symlink_to("loop.png")
    (images / "folder").symlink_to(tmp_path / "secret")
    os.mkfifo(images / "pipe.png")
    (images / "folder.png").mkdir()
    found = list_pictures(images)
    assert found.stamps.keys() == {"a.png", "inside.png"}
    assert found.stamps["inside.png"] == found.stamps["a.png"]
    assert {path: reason for path, (_, reason) in found.refused.items()} == {
        "outside.png": "a symbolic link out of the folder",
        "nothing.png": "a symbolic link to nothing",
        "loop.png": "a symbolic link to nothing",
        "pipe.png": "not a regular file",
    }


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    assert list_pictures(tmp_path).refused.keys() == {"\\xff.png"}


def test_captions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"])
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"a\.txt"):
        list_pictures(tmp_path)


def test_a_picture_is_read_as_in_evaluation(tmp_path: Path) -> None:
    (file,) = write_pictures(tmp_path, ["sub/a.png"])
    found = read_picture(tmp_path, "sub/a.png", SPEC)
    assert isinstance(found, Picture)
    expected = read_pictures([file], SPEC)
    assert isinstance(expected, torch.Tensor)
    assert torch.equal(found.pixels, expected[0])
    assert (found.facts.width, found.facts.height) == (48, 40)
    assert found.hash == hash_of_file(file)
    # the hash of other content differs, also if the beginning is the same
    content = file.read_bytes()
    file.write_bytes(content + b"x")
    assert hash_of_file(file) != found.hash


def test_a_fault_names_the_reason_without_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<html>")
    found = read_picture(tmp_path, "a.png", SPEC)
    assert isinstance(found, Fault)
    assert found.reason == "not a picture of a known kind (JPEG, PNG, WEBP, GIF, BMP, TIFF)"
    missing = read_picture(tmp_path, "b.png", SPEC)
    assert isinstance(missing, Fault)
    assert str(tmp_path) not in missing.reason
