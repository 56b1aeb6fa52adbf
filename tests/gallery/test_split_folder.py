"""A split as a folder of files: the same pictures and captions, and nothing is written twice."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers.galleries import write_pictures

from ascl_lightning.data.images import ImageBytes
from ascl_lightning.data.sources.base import Split
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.pictures import list_pictures
from ascl_lightning.gallery.split_folder import write_split


def test_pictures_of_every_kind_become_files(tmp_path: Path) -> None:
    (file,) = write_pictures(tmp_path / "data", ["one.png"])
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    images = [file, ImageBytes(file.read_bytes(), "two"), pixels, pixels]
    split = Split(
        ["a/../one.png", "2", "scene 3.jpg", "A____one"], [("a dog", "two\ndogs"), (), (" a  kite",), ()], images
    )
    out = tmp_path / "out"
    write_split(split, out)
    found = list_pictures(out)
    assert list(found.stamps) == ["2.jpg", "A____one_3.png", "a____one.png", "scene_3.png"]
    assert found.captions == {"a____one.png": ("a dog", "two dogs"), "scene_3.png": ("a kite",)}
    assert (out / "a____one.png").read_bytes() == (out / "2.jpg").read_bytes() == file.read_bytes()
    assert np.array_equal(np.asarray(Image.open(out / "scene_3.png")), pixels)
    write_split(split, out)
    assert list_pictures(out).stamps == found.stamps


def test_a_split_without_pictures_and_a_file_in_place_of_the_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pictures"):
        write_split(Split(["a"], [("a dog",)], None), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_split(Split(["a"], [()], np.zeros((1, 4, 4, 3), np.uint8)), tmp_path / "file" / "out")
