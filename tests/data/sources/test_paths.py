"""A canary outside of the data: whatever path the data names, it is refused, and nothing outside is opened."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.datasets import write_picture
from tests.helpers.layouts import ALL_LAYOUTS, LAYOUTS, read_split
from tests.helpers.region_layouts import LAYOUTS as REGION_LAYOUTS

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.images import open_image
from ascl_lightning.data.sources import CaptionFolder, KarpathyJson, Source
from ascl_lightning.errors import UserError

FOLDERS = {
    "jsonl": ".",
    "csv": ".",
    "parquet": ".",
    "karpathy": "images",
    "coco": "train",
    "flickr_tokens": "flickr30k-images",
    "flickr30k_hub": "flickr30k-images",
    "hub_imagefolder": "hub/train",
    "hard_negatives": "images",
}
"""The folder that each layout's paths start from."""

_opened: list[str] = []
_watching = False


def _note_opened(event: str, args: tuple[object, ...]) -> None:
    if _watching and event in ("open", "os.listdir", "os.scandir"):
        _opened.append(os.path.realpath(str(args[0])))


sys.addaudithook(_note_opened)


@contextmanager
def nothing_opened_in(folder: Path) -> Iterator[None]:
    """Fail if Python opens or lists anything there."""
    global _watching
    _opened.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert not [path for path in _opened if Path(path).is_relative_to(folder)]


def read_everything(source: Source, root: Path, split_name: str = "train") -> None:
    split = read_split(source, root, split_name)
    for row in range(len(split)):
        open_image(split.images[row])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    write_picture(tmp_path / "outside" / "canary.png", 7)
    return tmp_path / "outside"


def test_the_pickle_canary_works(outside: Path) -> None:
    with pytest.raises(AssertionError), nothing_opened_in(outside):
        open_image(outside / "canary.png")


@pytest.mark.parametrize("way", ["up", "down and up", "absolute", "linked folder", "linked file"])
@pytest.mark.parametrize("layout", FOLDERS)
def test_names_that_lead_outside(tmp_path: Path, outside: Path, layout: str, way: str) -> None:
    root = tmp_path / "root"
    folder = root / FOLDERS[layout]
    folder.mkdir(parents=True)
    name = {
        "up": os.path.relpath(outside / "canary.png", folder),
        "down and up": f"below/../{os.path.relpath(outside / 'canary.png', folder)}",
        "absolute": str(outside / "canary.png"),
        "linked folder": "link/canary.png",
        "linked file": "link.png",
    }[way]
    (folder / "below").mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "link.png").symlink_to(outside / "canary.png")
    source = ALL_LAYOUTS[layout].write(root, {"train": [("a.png", ("own",)), (name, ("canary",))]})
    with nothing_opened_in(outside), pytest.raises(UserError, match=r"inside|leads"):
        read_everything(source, root, ALL_LAYOUTS[layout].split)


@pytest.mark.parametrize("filepath", ["../outside", "link"])
def test_karpathys_sub_folders_that_lead_outside(tmp_path: Path, outside: Path, filepath: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    image = {"filename": "canary.png", "filepath": filepath, "split": "train", "sentences": [{"raw": "x"}]}
    (root / "dataset.json").write_text(json.dumps({"images": [image]}))
    with nothing_opened_in(outside), pytest.raises(UserError, match=r"inside|leads"):
        read_everything(KarpathyJson("dataset.json", images="."), root)


@pytest.mark.parametrize("name", ["a.png", "a.txt"])
def test_links_in_a_caption_folder_that_lead_outside(tmp_path: Path, outside: Path, name: str) -> None:
    (outside / "canary.txt").write_text("secret")
    folder = tmp_path / "root" / "train"
    write_picture(folder / "a.png", 0)
    (folder / "a.txt").write_text("own")
    (folder / name).unlink()
    (folder / name).symlink_to(outside / Path(name).with_stem("canary"))
    with nothing_opened_in(outside), pytest.raises(UserError, match=rf"{name}: a symbolic link that leads out of"):
        read_everything(CaptionFolder(), tmp_path / "root")


@pytest.mark.parametrize("linked", ["root", "root/images"])
def test_links_that_the_user_names_are_followed(tmp_path: Path, linked: str) -> None:
    """`--data.root` and the image folder are the user's own words; what the data names below them is not."""
    (tmp_path / "root").mkdir()
    source = LAYOUTS["karpathy"].write(tmp_path / "root", {"train": [("a.png", ("own",))]})
    (tmp_path / linked).rename(tmp_path / "elsewhere")
    (tmp_path / linked).symlink_to(tmp_path / "elsewhere")
    split = read_split(source, tmp_path / "root")
    assert split.captions[0] == ("own",)
    assert open_image(split.images[0]).size == (40, 30)


@pytest.mark.parametrize("image_id", ["../outside/canary", "/outside/canary.npy", "..", "link/canary"])
@pytest.mark.parametrize("layout", REGION_LAYOUTS)
def test_image_ids_are_never_paths_of_region_features(tmp_path: Path, image_id: str, layout: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    np.save(outside / "canary.npy", np.ones((1, 3), np.float32))
    (root / "link").symlink_to(outside)
    opened = REGION_LAYOUTS[layout](root, {"7": np.ones((1, 3), np.float32)}).open(root)
    with nothing_opened_in(outside), pytest.raises(UserError, match="holds no region features"):
        opened.load(image_id, RegionSpec(2, 3))
