import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.datasets import write_regions

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions import RegionFolder, folder
from ascl_lightning.data.regions.folder import load_regions
from ascl_lightning.errors import UserError

SPEC = RegionSpec(num_regions=3, dim=2)


def save(root: Path, array: np.ndarray) -> Path:
    path = root / "a.npy"
    np.save(path, array)
    return path


def test_few_regions_are_padded(tmp_path: Path) -> None:
    save(tmp_path, np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
    features = RegionFolder(".").open(tmp_path).load(["a"], SPEC)
    assert features.tokens.tolist() == [[[1, 2], [3, 6], [0, 0]]]
    assert features.mask.tolist() == [[True, True, False]]
    # the mean over two regions, without the padding
    assert features.pooled.tolist() == [[2, 4]]


def test_many_regions_are_cut(tmp_path: Path) -> None:
    save(tmp_path, np.arange(10, dtype=np.float32).reshape(5, 2))
    features = RegionFolder(".").open(tmp_path).load(["a"], SPEC)
    assert features.tokens.tolist() == [[[0, 1], [2, 3], [4, 5]]]
    assert features.mask.all()
    assert features.pooled.tolist() == [[2, 3]]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_float_and_order_becomes_float32(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.array([[1, 2], [3, 4], [5, 6]], dtype=dtype, order=order)  # type: ignore[call-overload]
    regions = load_regions(save(tmp_path, array), SPEC)
    np.testing.assert_array_equal(regions, np.array([[1, 2], [3, 4], [5, 6]], np.float32), strict=True)


def test_arrays_are_writable(tmp_path: Path) -> None:
    path = save(tmp_path, np.ones((3, 2), np.float32))
    load_regions(path, SPEC)[:] = 0
    np.testing.assert_array_equal(np.load(path), np.ones((3, 2)))


def test_reads_what_the_builder_writes(tmp_path: Path) -> None:
    write_regions(tmp_path / "r" / "1.npy", 1, SPEC)
    assert load_regions(tmp_path / "r" / "1.npy", SPEC).shape == (2, 2)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4), np.float32), r"holds shape \(3, 4\), expected \(number of regions, 2\)"),
        (np.zeros(2, np.float32), r"holds shape \(2,\), expected"),
        (np.zeros((1, 3, 2), np.float32), r"holds shape \(1, 3, 2\), expected"),
        (np.zeros((0, 2), np.float32), r"a\.npy"),
        (np.zeros((3, 2), np.int64), "holds int64, expected floating-point numbers"),
        (np.array([[1, np.nan]], np.float32), "not finite"),
        (np.array([[1e300, 1]]), "not finite"),
        (np.array([[{}, 1]], dtype=object), "not a readable .npy array"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_regions(save(tmp_path, array), SPEC)
    assert str(tmp_path / "a.npy") in str(error.value)


LONG_HEADER = b"\x93NUMPY\x02\x00\x00\x00\x02\x00" + b" " * 0x20000


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((((", LONG_HEADER]
)
def test_other_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npy: not a readable \.npy array: .*") as error:
        load_regions(tmp_path / "a.npy", SPEC)
    assert "\n" not in str(error.value)


def test_truncated_and_missing_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, np.ones((30, 2), np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"a\.npy: not a readable \.npy array"):
        load_regions(path, SPEC)
    with pytest.raises(UserError, match=r"b\.npy: there is no such file"):
        load_regions(tmp_path / "b.npy", SPEC)


def test_npz_arrays_are_found_by_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", boxes=np.zeros((1, 4)), x=np.zeros((1, 2)), features=np.ones((1, 2)))
    np.testing.assert_array_equal(load_regions(tmp_path / "a.npz", SPEC), [[1, 1]])
    np.savez(tmp_path / "b.npz", boxes=np.zeros((1, 4)))
    with pytest.raises(UserError, match=r"b\.npz: holds no array features, feat, x; it holds: boxes\.npy"):
        load_regions(tmp_path / "b.npz", SPEC)


def test_damaged_npz_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, features=np.random.default_rng(0).random((30, 2)))
    data = path.read_bytes()
    flipped = bytes(byte ^ (100 < place < 140) for place, byte in enumerate(data))
    for content in (b"", b"<html>", data[:-30], data[:50], flipped):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.npz: not a readable \.npz array"):
            load_regions(path, SPEC)


def test_npz_files_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros((folder.MAX_BYTES // 16, 2)))
    with pytest.raises(UserError, match=r"a\.npz: features\.npy unpacks to more than 67,108,864 bytes"):
        load_regions(tmp_path / "a.npz", SPEC)


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


def test_pickles_in_arrays_are_not_run(tmp_path: Path) -> None:
    objects = np.array([[Payload(tmp_path / "canary"), 1]], dtype=object)
    np.savez(tmp_path / "a.npz", allow_pickle=True, features=objects)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
    for name in ("a.npz", "a.npy", "b.npz"):
        with pytest.raises(UserError, match="not a readable"):
            load_regions(tmp_path / name, SPEC)
    assert not (tmp_path / "canary").exists()
    pickle.loads((tmp_path / "b.npz").read_bytes())
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(("first", "second"), [("train/7.npy", "val/7.npy"), ("7.npy", "7.npz")])
def test_two_files_of_an_image_are_named(tmp_path: Path, first: str, second: str) -> None:
    for name in (first, second):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="two files of region features for '7'") as error:
        RegionFolder(".").open(tmp_path)
    assert str(tmp_path / first) in str(error.value)
    assert str(tmp_path / second) in str(error.value)


@pytest.mark.parametrize("link", ["regions/7.npy", "regions/train"])
@pytest.mark.parametrize("target", ["outside/7.npy", "outside", "regions2"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, link: str, target: str) -> None:
    for name in ("outside", "regions", "regions2"):
        (tmp_path / name).mkdir()
    save(tmp_path / "outside", np.ones((1, 2))).rename(tmp_path / "outside" / "7.npy")
    (tmp_path / link).symlink_to(tmp_path / target)
    if link == "regions/train" and target.endswith(".npy"):
        return  # a file of another kind
    with pytest.raises(UserError, match="a symbolic link out of"):
        RegionFolder("regions").open(tmp_path)


def test_links_within_the_folder_and_to_it_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real" / "train").mkdir(parents=True)
    save(tmp_path / "real" / "train", np.ones((1, 2)))
    (tmp_path / "real" / "b.npy").symlink_to("train/a.npy")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "notes.txt").symlink_to("/etc/hostname")
    (tmp_path / "regions").symlink_to("real")
    opened = RegionFolder("regions").open(tmp_path)
    for name in ("a", "b"):
        np.testing.assert_array_equal(opened.load([name], SPEC).pooled[0], [1, 1])


def test_a_deleted_file_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, np.ones((1, 2)))
    opened = RegionFolder(".").open(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.npy: there is no such file"):
        opened.load(["a"], SPEC)
