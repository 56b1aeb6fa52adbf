from pathlib import Path

import numpy as np
import pytest
from tests.datasets import write_regions

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions import load_regions
from ascl_lightning.errors import UserError

SPEC = RegionSpec(num_regions=3, dim=2)


def save(root: Path, array: np.ndarray) -> Path:
    path = root / "a.npy"
    np.save(path, array)
    return path


def test_few_regions_are_padded(tmp_path: Path) -> None:
    features = load_regions(save(tmp_path, np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)), SPEC)
    np.testing.assert_array_equal(features.tokens, [[1, 2], [3, 6], [0, 0]])
    np.testing.assert_array_equal(features.mask, [True, True, False])
    # the mean over two regions, padding apart
    np.testing.assert_array_equal(features.pooled, [2, 4])


def test_many_regions_are_cut(tmp_path: Path) -> None:
    features = load_regions(save(tmp_path, np.arange(10, dtype=np.float32).reshape(5, 2)), SPEC)
    np.testing.assert_array_equal(features.tokens, [[0, 1], [2, 3], [4, 5]])
    assert features.mask.all()
    np.testing.assert_array_equal(features.pooled, [2, 3])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_float_and_order_becomes_float32(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.array([[1, 2], [3, 4], [5, 6]], dtype=dtype, order=order)  # type: ignore[call-overload]
    features = load_regions(save(tmp_path, array), SPEC)
    assert features.tokens.dtype == features.pooled.dtype == np.float32
    np.testing.assert_array_equal(features.tokens, [[1, 2], [3, 4], [5, 6]])


def test_what_was_read_may_be_written_to(tmp_path: Path) -> None:
    path = save(tmp_path, np.ones((3, 2), np.float32))
    features = load_regions(path, SPEC)
    features.tokens[:] = 0
    np.testing.assert_array_equal(np.load(path), np.ones((3, 2)))


def test_reads_what_the_builder_writes(tmp_path: Path) -> None:
    write_regions(tmp_path / "r" / "1.npy", 1, SPEC)
    np.testing.assert_array_equal(load_regions(tmp_path / "r" / "1.npy", SPEC).mask, [True, True, False])


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
