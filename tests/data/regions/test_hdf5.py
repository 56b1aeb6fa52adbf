import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests.helpers.region_layouts import hdf5_groups

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions import OpenRegions, RegionHdf5
from ascl_lightning.errors import UserError

SPEC = RegionSpec(num_regions=3, dim=2)


def open_file(root: Path, **data_sets: Any) -> OpenRegions:
    with h5py.File(root / "r.h5", "w") as file:
        for name, values in data_sets.items():
            file[name] = values
    return RegionHdf5("r.h5").open(root)


def stacked(number: int = 2) -> np.ndarray:
    return np.arange(number * 8, dtype=np.float32).reshape(number, 4, 2)


@pytest.mark.parametrize("name", ["image_id", "image_ids", "ids"])
@pytest.mark.parametrize("ids", [np.array([5, 42]), np.array([[5], [42]], np.uint8), ["5", "000000000042"]])
def test_stacked_images_have_ids_of_any_kind(tmp_path: Path, name: str, ids: Any) -> None:
    opened = open_file(tmp_path, features=stacked(), **{name: ids})
    np.testing.assert_array_equal(opened.load(["COCO_val2014_000000000042.jpg"], SPEC).tokens[0], stacked()[1, :3])


def test_regions_beyond_the_limit_and_of_the_next_image_are_dropped(tmp_path: Path) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    opened = open_file(tmp_path, features=rows, pos_boxes=np.array([[4, 10], [0, 2], [3, 4]]), ids=[1, 2, 3])
    assert opened.load(["1"], SPEC).tokens[0].tolist() == rows[4:7].tolist()
    assert opened.load(["2"], SPEC).tokens[0].tolist() == [*rows[:2].tolist(), [0, 0]]
    assert opened.load(["3"], SPEC).mask[0].tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("data_sets", "message"),
    [
        ({}, "stacked images need a data set of their ids, named image_id, image_ids, ids"),
        ({"ids": [1, 2, 3]}, r"'/ids': holds shape \(3,\), expected \(2,\)"),
        ({"ids": [7, 7]}, "'/ids', row 1: repeats the image '7' of row 0"),
        ({"ids": [1.0, 2.0]}, r"'/ids', row 0: must be a whole number or text, not 1\.0"),
        ({"ids": np.array([b"a", b"\xff"])}, "'/ids', row 1: is not UTF-8 text"),
        ({"ids": [1, 2], "num_boxes": [4, 5]}, "'/num_boxes': image 1 has 5, of 4 regions"),
        ({"ids": [1, 2], "num_boxes": [-1, 4]}, "'/num_boxes': image 0 has -1, of 4 regions"),
        ({"ids": [1, 2], "num_boxes": [4]}, r"'/num_boxes': holds shape \(1,\), expected \(2,\)"),
        ({"ids": [1, 2], "num_boxes": [4.0, 4.0]}, "'/num_boxes': holds float64, expected whole numbers"),
        ({"features": np.zeros(3)}, r"'/features': holds shape \(3,\), expected \(images"),
        ({"features": np.zeros((9, 2)), "ids": [1]}, "'/pos_boxes': must give the start and end"),
        ({"features": np.zeros((9, 2)), "ids": [1], "pos_boxes": [0, 9]}, "'/pos_boxes': must give the start and end"),
        ({"features": np.zeros((9, 2)), "ids": [1], "pos_boxes": [[0, 10]]}, r"image 0 has \[0, 10\], of 9 regions"),
        ({"features": np.zeros((9, 2)), "ids": [1], "pos_boxes": [[-1, 3]]}, r"image 0 has \[-1, 3\], of 9 regions"),
        ({"features": np.zeros((9, 2)), "ids": [1], "pos_boxes": [[4, 3]]}, r"image 0 has \[4, 3\], of 9 regions"),
    ],
)
def test_faults_of_stacked_images_are_named(tmp_path: Path, data_sets: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        open_file(tmp_path, **{"features": stacked()} | data_sets)
    assert str(tmp_path / "r.h5") in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32(1), r"holds shape \(\)"),
        (np.zeros((2, 2), np.int64), "holds int64, expected floating-point"),
        (np.array([["a", "b"]], dtype=h5py.string_dtype()), "holds object, expected floating-point"),
        (np.zeros((1, 2, 2)), r"holds shape \(1, 2, 2\)"),
    ],
)
def test_faults_of_one_image_are_named(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"r\.h5, '/7': {message}"):
        open_file(tmp_path, **{"7": values}).load(["7"], SPEC)


def test_a_group_without_features_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'/7': holds no data set 'features'"):
        open_file(tmp_path, **{"7/boxes": np.zeros((1, 4))}).load(["7"], SPEC)


def test_a_false_shape_allocates_nothing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file.create_dataset("features", (1, 1 << 40, 2), "f4", chunks=(1, 1024, 2), fillvalue=1)
        file["ids"] = [7]
    np.testing.assert_array_equal(RegionHdf5("r.h5").open(tmp_path).load(["7"], SPEC).pooled[0], [1, 1])
    with pytest.raises(UserError, match="holds shape"):
        RegionHdf5("r.h5").open(tmp_path).load(["7"], RegionSpec(3, 1 << 20))


def link_external(file: h5py.File, root: Path) -> None:
    file["7"] = h5py.ExternalLink(str(root / "secret.h5"), "/x")


def link_external_group(file: h5py.File, root: Path) -> None:
    file["val2014"] = h5py.ExternalLink(str(root / "secret.h5"), "/")


def link_inside(file: h5py.File, root: Path) -> None:
    file["outside"] = h5py.ExternalLink(str(root / "secret.h5"), "/")
    file["7"] = h5py.SoftLink("/outside/x")


def link_features(file: h5py.File, root: Path) -> None:
    file.create_group("7")["features"] = h5py.ExternalLink(str(root / "secret.h5"), "/x")


def link_stack(file: h5py.File, root: Path) -> None:
    file["features"] = h5py.ExternalLink(str(root / "secret.h5"), "/x")


def link_ids(file: h5py.File, root: Path) -> None:
    file["features"] = stacked(1)
    file["image_id"] = h5py.ExternalLink(str(root / "secret.h5"), "/x")


def virtual(file: h5py.File, root: Path) -> None:
    layout = h5py.VirtualLayout((1, 2), "f4")
    layout[:] = h5py.VirtualSource(str(root / "secret.h5"), "x", (1, 2))
    file.create_virtual_dataset("7", layout)


def raw_values(file: h5py.File, root: Path) -> None:
    file.create_dataset("7", (1, 2), "f4", external=[(str(root / "secret.bin"), 0, 8)])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (link_external, "'7' is a link, which is not followed"),
        (link_external_group, "'val2014' is a link, which is not followed"),
        (link_inside, "'7' is a link, which is not followed"),
        (link_features, "'features' is a link, which is not followed"),
        (link_stack, "'features' is a link, which is not followed"),
        (link_ids, "'image_id' is a link, which is not followed"),
        (virtual, "'/7': its values lie in other files, which are not read"),
        (raw_values, "'/7': its values lie in other files, which are not read"),
    ],
)
def test_other_files_are_not_read(tmp_path: Path, write: Any, message: str) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones((1, 2), np.float32)
    (tmp_path / "secret.bin").write_bytes(np.ones(2, np.float32).tobytes())
    with h5py.File(tmp_path / "r.h5", "w") as file:
        write(file, tmp_path)
    with pytest.raises(UserError, match=rf"r\.h5.*{message}"):
        RegionHdf5("r.h5").open(tmp_path).load(["val2014/x_7.jpg"], SPEC)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_other_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"r\.h5: not a readable HDF5 file: ") as error:
        RegionHdf5("r.h5").open(tmp_path)
    assert "\n" not in str(error.value)


def test_damaged_files_never_give_other_errors(tmp_path: Path) -> None:
    store = hdf5_groups(tmp_path, {str(key): np.full((3, 2), key, np.float32) for key in range(4)})
    data = bytearray((tmp_path / "r.h5").read_bytes())
    (tmp_path / "r.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        store.open(tmp_path)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 100):
        (tmp_path / "r.h5").write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with suppress(UserError):
            opened = store.open(tmp_path)
            for key in range(4):
                opened.load(str(key), SPEC)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"r\.h5: reading it needs the package h5py; pip install 'ascl-lightning\[regions\]'"
    ):
        RegionHdf5("r.h5").open(tmp_path)
