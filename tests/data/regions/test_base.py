import string
from pathlib import Path

import jsonargparse
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.region_layouts import LAYOUTS

from ascl_lightning.data.batch import Features, RegionSpec
from ascl_lightning.data.regions import OpenRegions, RegionHdf5, RegionStore
from ascl_lightning.data.regions.base import candidate_keys, to_regions
from ascl_lightning.errors import UserError

SPEC = RegionSpec(num_regions=4, dim=3)
KEYS = ("COCO_val2014_000000391895", "7", "000000000042", "a.b", "hünd")
IMAGE_IDS = ("val2014/COCO_val2014_000000391895.jpg", "COCO_train2014_000000000007.jpg", "42", "a.b", "hünd.png")


def content(keys: tuple[str, ...] = KEYS) -> dict[str, np.ndarray]:
    """1 to 6 regions an image: some are padded, some cut."""
    rng = np.random.default_rng(0)
    return {key: rng.random((1 + number * 5 % 6, 3), np.float32) for number, key in enumerate(keys)}


@pytest.fixture(params=LAYOUTS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> OpenRegions:
    return LAYOUTS[request.param](tmp_path, content()).open(tmp_path)


def assert_same(got: Features, *arrays: np.ndarray) -> None:
    """Each image's first 4 regions, zeros after them, and the mean of those that are real."""
    for row, array in enumerate(arrays):
        kept = array[:4]
        assert got.tokens[row].tolist() == [*kept.tolist(), *[[0.0] * 3] * (4 - len(kept))]
        assert got.mask[row].tolist() == [True] * len(kept) + [False] * (4 - len(kept))
        np.testing.assert_array_equal(got.pooled[row].numpy(), kept.mean(axis=0), strict=True)


def test_every_layout_gives_the_same(opened: OpenRegions) -> None:
    assert_same(opened.load(IMAGE_IDS, SPEC), *content().values())
    assert_same(opened.load(IMAGE_IDS[1:2], SPEC), content()["7"])


@pytest.mark.parametrize("image_id", ["b_8.jpg", "", "/", ".", "..", "7/..", "a\0b", "\ud800", "k" * 600])
def test_missing_images_are_named(opened: OpenRegions, image_id: str) -> None:
    with pytest.raises(UserError, match="holds no region features of the image") as error:
        opened.load([image_id], SPEC)
    message = str(error.value)
    assert str(opened.path) in message
    assert all(repr(key) in message for key in [image_id, *candidate_keys(image_id)])


def test_the_width_is_checked(opened: OpenRegions) -> None:
    with pytest.raises(UserError, match="expected"):
        opened.load(["7"], RegionSpec(4, 5))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_that_are_not_finite_are_refused(tmp_path: Path, layout: str) -> None:
    opened = LAYOUTS[layout](tmp_path, {"7": np.array([[1, 2, np.nan]], np.float32)}).open(tmp_path)
    with pytest.raises(UserError, match="not finite") as error:
        opened.load(["7"], SPEC)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_regions_are_refused(tmp_path: Path, layout: str) -> None:
    opened = LAYOUTS[layout](tmp_path, {"7": np.zeros((0, 3), np.float32), "8": np.ones((1, 3), np.float32)})
    with pytest.raises(UserError, match=r"holds shape \(0, 3\)"):
        opened.open(tmp_path).load(["7"], SPEC)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stores_that_are_not_there_are_named(tmp_path: Path, layout: str) -> None:
    store = LAYOUTS[layout](tmp_path, content())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no f(ile|older) .*empty"):
        store.open(tmp_path / "empty")
    with pytest.raises(UserError, match=r"set --data\.root"):
        store.open(None)


def test_a_deleted_store_closes_its_file(tmp_path: Path) -> None:
    LAYOUTS["hdf5_stacked"](tmp_path, content()).open(tmp_path).load(["7"], SPEC)
    other = {"7": np.zeros((2, 3), np.float32)}
    assert_same(LAYOUTS["hdf5_stacked"](tmp_path, other).open(tmp_path).load(["7"], SPEC), other["7"])


def test_the_command_line_builds_a_store_by_its_name() -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--regions", type=RegionStore)
    config = parser.parse_args(["--regions=RegionHdf5", "--regions.path=r.h5"])
    store = parser.instantiate(config).regions
    assert isinstance(store, RegionHdf5)
    assert store.path == "r.h5"


@pytest.mark.parametrize(
    ("image_id", "keys"),
    [
        ("COCO_val2014_000000391895.jpg", ["COCO_val2014_000000391895", "391895", "000000391895"]),
        ("391895", ["000000391895"]),
        ("1000268201.jpg", ["1000268201", "001000268201"]),
        ("a/b/000.jpg", ["000", "0", "000000000000"]),
        ("dog7.jpg", ["dog7"]),
        ("_7", ["7", "000000000007"]),
        ("7_a.jpg", ["7_a"]),
        ("a_-7.jpg", ["a_-7"]),
        ("a_٣.jpg", ["a_٣"]),
        ("1234567890123", []),
    ],
)
def test_candidate_keys(image_id: str, keys: list[str]) -> None:
    assert candidate_keys(image_id) == [image_id, *keys]


@given(st.integers(0, 10**14), st.integers(0, 16), st.text(string.ascii_letters + "_ /", max_size=8))
def test_numbers_are_found_however_they_are_padded(number: int, width: int, prefix: str) -> None:
    keys = candidate_keys(f"{prefix}/COCO_{number:0{width}d}.jpg")
    assert {str(number), f"{number:012d}"} <= set(keys)


@given(st.text(min_size=1).filter(lambda name: "/" not in name and name != "."), st.text())
def test_a_folder_changes_only_the_first_key(name: str, folder: str) -> None:
    keys, below = candidate_keys(name), candidate_keys(f"{folder}/{name}")
    assert (keys[0], below[0]) == (name, f"{folder}/{name}")
    assert set(keys) - {keys[0]} <= set(below)
    assert set(below) - {below[0]} <= set(keys)
    assert all(len(set(some)) == len(some) and all(some) for some in (keys, below))


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 6), st.sampled_from(["f2", "<f4", ">f4", "f8"]))
def test_regions_are_the_first_rows(rows: int, dim: int, kept: int, dtype: str) -> None:
    array = np.arange(rows * dim, dtype=dtype).reshape(rows, dim)
    regions = to_regions(array, RegionSpec(kept, dim), "here")
    assert regions.dtype == np.float32
    np.testing.assert_array_equal(regions, array[:kept])
    assert not np.shares_memory(regions, array)
