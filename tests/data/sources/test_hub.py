import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from pyarrow import parquet
from tests.helpers.datasets import write_picture
from tests.helpers.layouts import HUB_FEATURES, picture_of, read_split, write_hub_arrow
from torch.utils.data import DataLoader, Dataset

from ascl_lightning.data.images import ImageBytes
from ascl_lightning.data.sources import HubDataset, Split, hub
from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.errors import UserError

CONTENT = {"train": [(f"{i}.png", (f"caption {i}", "x")) for i in range(5)], "val": [("v.png", ("y",))]}


def table(root: Path, columns: Mapping[str, list[Any]], features: datasets.Features | None = None) -> HubDataset:
    """A data set of one Parquet file, as it is: what lies elsewhere is not put inside."""
    rows = datasets.Dataset.from_dict(dict(columns), features)
    (root / "hub" / "data").mkdir(parents=True)
    parquet.write_table(rows.data.table, root / "hub" / "data" / "train-00000-of-00001.parquet")
    return HubDataset("hub", cache_dir=str(root / "cache"))


def picture(root: Path, index: int = 0) -> bytes:
    write_picture(root / "made" / f"{index}.png", index)
    return (root / "made" / f"{index}.png").read_bytes()


def zipped_folder(root: Path, number: int = 3) -> HubDataset:
    """An imagefolder in an archive a split, as most lie on the hub."""
    (root / "hub").mkdir(parents=True)
    with zipfile.ZipFile(root / "hub" / "train.zip", "w") as archive:
        for i in range(number):
            archive.writestr(f"{i}.png", picture(root, i))
        lines = (json.dumps({"file_name": f"{i}.png", "caption": [f"caption {i}"]}) + "\n" for i in range(number))
        archive.writestr("metadata.jsonl", "".join(lines))
    return HubDataset("hub", cache_dir=str(root / "cache"))


def assert_is(image: Path | ImageBytes, index: int, root: Path) -> None:
    picture(root, index)
    assert picture_of(image).tobytes() == picture_of(root / "made" / f"{index}.png").tobytes()


# Where pictures lie


def test_bytes_in_a_column(tmp_path: Path) -> None:
    columns = {"photo": [picture(tmp_path, 0), picture(tmp_path, 1)], "text": ["one", "two"]}
    source = table(tmp_path, columns)
    source.image, source.captions = "photo", "text"
    split = source.read(tmp_path, "train")
    assert list(split.captions) == [("one",), ("two",)]
    assert split.image_ids == ["0", "1"]
    for row in range(2):
        assert_is(split.images[row], row, tmp_path)


def test_paths_in_a_column_start_from_the_root(tmp_path: Path) -> None:
    source = table(tmp_path, {"image": ["made/0.png", "made/1.png"], "caption": ["one", "two"]})
    split = source.read(tmp_path, "train")
    for row in range(2):
        assert_is(split.images[row], row, tmp_path)


@pytest.mark.parametrize("value", ["../x.png", "/x.png"])
def test_paths_that_lead_out_of_the_root_are_refused(tmp_path: Path, value: str) -> None:
    write_picture(tmp_path / "x.png", 0)
    root = tmp_path / "root"
    source = table(root, {"image": [value], "caption": ["x"]})
    with pytest.raises(UserError, match="hub, train, row 0: field 'image' must name a path inside"):
        first_picture(read_split(source, root))


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_in_an_archive(tmp_path: Path, streaming: bool) -> None:
    source = zipped_folder(tmp_path)
    source.streaming = streaming
    if streaming:
        items = [item for shard in source.shards(tmp_path, "train") for item in shard.items(0)]
    else:
        split = source.read(tmp_path, "train")
        items = list(zip(split.captions, [split.images[row] for row in range(3)], strict=True))
    assert [captions for captions, _ in items] == [(f"caption {i}",) for i in range(3)]
    for i, (_, image) in enumerate(items):
        assert_is(image, i, tmp_path)


class Loaded(Dataset[tuple[int, bytes]]):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split) * 20

    def __getitem__(self, index: int) -> tuple[int, bytes]:
        return index % len(self.split), self.split.images[index % len(self.split)].data


def test_an_archive_is_reopened_after_a_fork(tmp_path: Path) -> None:
    split = zipped_folder(tmp_path, 8).read(tmp_path, "train")
    first_picture(split)
    for row, data in DataLoader(Loaded(split), batch_size=None, num_workers=2):
        assert data == picture(tmp_path, row)


@pytest.mark.parametrize("damage", ["member", "archive", "gone"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str) -> None:
    split = zipped_folder(tmp_path).read(tmp_path, "train")
    path = tmp_path / "hub" / "train.zip"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        place = content.index(b"\x89PNG") + 60 if damage == "member" else len(content) - 20
        path.write_bytes(content[:place] + b"\0\xff\0\xff" + content[place + 4 :])
    hub._archive.cache_clear()
    with pytest.raises(UserError, match=r"hub, train, row 0: field 'image' cannot be read from 0\.png .*train\.zip"):
        first_picture(split)


def test_an_archives_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = zipped_folder(tmp_path).read(tmp_path, "train")
    monkeypatch.setattr(hub, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="row 0: field 'image' has more than 100 bytes"):
        first_picture(split)


ELSEWHERE = [
    "{outside}/canary.png",
    "../../outside/canary.png",
    "zip://canary.png::{outside}/canary.zip",
    "file://{outside}/canary.png",
    "http://127.0.0.1:9/canary.png",
    "zip://canary.png::http://127.0.0.1:9/canary.zip",
    "hf://datasets/some/other@main/canary.png",
    "memory://canary.png",
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("place", ELSEWHERE)
def test_places_that_a_table_claims_are_not_read(tmp_path: Path, place: str, streaming: bool) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    data = picture(tmp_path)
    (outside / "canary.png").write_bytes(data)
    with zipfile.ZipFile(outside / "canary.zip", "w") as archive:
        archive.writestr("canary.png", data)
    fsspec.filesystem("memory").pipe("canary.png", data)
    row = {"path": place.format(outside=outside), "bytes": None}
    source = table(root, {"name": ["a"], "image": [row], "caption": [["x"]]}, HUB_FEATURES)
    source.streaming = streaming
    with pytest.raises(UserError, match=r"row 0: field 'image' leads to .*, outside of .*; nothing is read there"):
        list(source.shards(root, "train")[0].items(0)) if streaming else first_picture(read_split(source, root))


class Repository(MemoryFileSystem):
    """Stands for the hub."""

    protocol = "hf"
    store: dict[str, Any] = {}  # noqa: RUF012 — as its base has it
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("hf:/")


@pytest.fixture
def no_network() -> Iterator[None]:
    """What stands for the hub in the place of what asks it."""
    real = fsspec.get_filesystem_class("hf")
    fsspec.register_implementation("hf", Repository, clobber=True)
    yield
    fsspec.register_implementation("hf", real, clobber=True)


@pytest.mark.usefixtures("no_network")
def test_pictures_on_the_hub_are_those_of_the_data_set_alone(tmp_path: Path) -> None:
    for repository in ("me/mine", "me/other"):
        Repository().pipe(f"/datasets/{repository}@abc/0.png", picture(tmp_path))
    zipped_folder(tmp_path)
    Repository().pipe("/datasets/me/mine@abc/train.zip", (tmp_path / "hub" / "train.zip").read_bytes())
    pictures = hub._Pictures("image", "caption", None, None, "me/mine", str(tmp_path))
    for place in ("hf://datasets/me/mine@abc/0.png", "zip://0.png::hf://datasets/me/mine@abc/train.zip"):
        assert_is(pictures.of({"bytes": None, "path": place}, "row 0"), 0, tmp_path)
    for place in ("hf://datasets/me/other@abc/0.png", "hf://datasets/me/mine@abc/../other@abc/0.png"):
        with pytest.raises(UserError, match="nothing is read there"):
            pictures.of({"bytes": None, "path": place}, "row 0")
    with pytest.raises(UserError, match=r"row 0: field 'image' cannot be read from .*1\.png: FileNotFoundError"):
        pictures.of({"bytes": None, "path": "hf://datasets/me/mine@abc/1.png"}, "row 0")


@pytest.mark.parametrize("value", [None, 3, {"bytes": None, "path": None}, ["a"]])
def test_what_is_no_picture(value: object) -> None:
    with pytest.raises(UserError, match="row 0: field 'image' holds no picture"):
        hub._Pictures("image", "caption", Path("/data"), None, "x", None).of(value, "row 0")


# What can be wrong


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    source = table(tmp_path, {"image": [picture(tmp_path)], "text": ["x"]})
    with pytest.raises(UserError, match="hub: there is no column 'caption'; it has: image, text"):
        source.read(tmp_path, "train")


@pytest.mark.parametrize("arrow", [False, True])
def test_a_missing_split_says_how_to_name_it(tmp_path: Path, arrow: bool) -> None:
    if arrow:
        source = write_hub_arrow(tmp_path, CONTENT)
    else:
        source = table(tmp_path, {"image": [picture(tmp_path)], "caption": ["x"]})
    with pytest.raises(MissingSplitError, match=r"there is no split 'dev' .*`splits`, as in \{val: validation\}"):
        source.read(tmp_path, "dev")


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    source = table(tmp_path, {"name": [], "image": [], "caption": []}, HUB_FEATURES)
    with pytest.raises(UserError, match="hub"):
        source.read(tmp_path, "train")


def test_what_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"hub: cannot be loaded: .*[Pp]arquet"):
        HubDataset("hub", cache_dir=str(tmp_path / "cache")).read(tmp_path, "train")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="cannot load 'nobody/nothing', which is no folder under the root, from the hub"
    ):
        HubDataset("nobody/nothing").read(tmp_path, "train")


def test_a_stream_cannot_join_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot join rows by image_id"):
        HubDataset("hub", image_id="name", streaming=True).shards(tmp_path, "train")


def test_a_broken_stream_is_a_user_error(tmp_path: Path) -> None:
    source = write_hub_arrow(tmp_path, CONTENT)
    source.streaming, source.image_id = True, None
    (shard,) = [shard for shard in source.shards(tmp_path, "train") if "part 3" in shard.name]
    (file,) = (tmp_path / "hub" / "train").glob("*.arrow")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"caption 3", b"caption\xff3"))
    with pytest.raises(UserError, match="hub, train, part 3: cannot be read: UnicodeDecodeError"):
        list(shard.items(0))
    with pytest.raises(UserError, match="hub, train, part 3: cannot be read: UnicodeDecodeError"):
        list(shard.captions())


# Streams


def test_a_stored_data_set_without_splits_is_one(tmp_path: Path) -> None:
    picture(tmp_path)
    rows = {"name": ["a"], "image": [str(tmp_path / "made" / "0.png")], "caption": [["x"]]}
    datasets.Dataset.from_dict(rows, HUB_FEATURES).save_to_disk(str(tmp_path / "hub"))
    assert list(HubDataset("hub").read(tmp_path, "train").captions) == [("x",)]


@pytest.mark.parametrize("start", [0, 1])
def test_a_shard_is_read_from_any_image_on(tmp_path: Path, start: int) -> None:
    source = write_hub_arrow(tmp_path, CONTENT)
    source.streaming, source.image_id = True, None
    shards = source.shards(tmp_path, "train")
    assert [captions for shard in shards for captions in shard.captions()] == [texts for _, texts in CONTENT["train"]]
    assert [len(list(shard.items(start))) for shard in shards] == [1 - start] * 5


def first_picture(split: Split) -> Image.Image:
    return picture_of(split.images[0])
