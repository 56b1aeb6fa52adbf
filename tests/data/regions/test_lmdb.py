import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.regions.layouts import to_base64, write_lmdb

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions import OpenRegions, RegionLmdb
from ascl_lightning.errors import UserError

SPEC = RegionSpec(num_regions=3, dim=2)
ONES = np.ones((2, 2), np.float32)


def open_values(root: Path, **values: bytes) -> OpenRegions:
    write_lmdb(root / "r", values)
    return RegionLmdb("r").open(root)


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickled_arrays_have_any_float_and_order(tmp_path: Path, dtype: str, protocol: int, order: str) -> None:
    array = np.array([[1, 2], [3, 4], [5, 6]], dtype, order=order)  # type: ignore[call-overload]
    opened = open_values(tmp_path, a=pickle.dumps({"features": array}, protocol), b=npy_of(array))
    for key in ("a", "b"):
        assert opened.load(key, SPEC).tokens.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_pickles_of_python_2_and_older_numpy_are_read(tmp_path: Path) -> None:
    data = (
        b"\x80\x02}(U\x08featurescnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x02K\x02tcnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x10" + ONES.tobytes() + b"tbu."
    )
    assert open_values(tmp_path, a=data).load("a", SPEC).pooled.tolist() == [1, 1]


def test_other_fields_are_never_built(tmp_path: Path) -> None:
    record = {"features": ONES, "names": np.array(["a", None], object), "when": np.datetime64("2020"), 3: None}
    assert open_values(tmp_path, a=pickle.dumps(record)).load("a", SPEC).pooled.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (bytes(20), r"holds 20 bytes, expected regions of 8 \(2 float32\)"),
        (b"\x93NUMPY", "holds a value that cannot be read"),
        (npy_of(ONES)[:-1], "holds a value that cannot be read"),
        (npy_of(np.zeros((1, 2), int)), "holds int64, expected floating-point"),
        (b"\x80\x04.", "holds a value that cannot be read"),
        (b"\x80\x04" + b"(" * 10_000 + b"t" * 9_999 + b".", "pickled tuple, expected a dictionary"),
        (pickle.dumps([ONES]), "holds a pickled list, expected a dictionary"),
        (pickle.dumps({"num_boxes": 1}), "field 'features' must be an array or base64, not NoneType"),
        (pickle.dumps({"features": to_base64(ONES)}), "field 'num_boxes' must be a whole number, not None"),
        (pickle.dumps({"features": to_base64(ONES), "num_boxes": 3}), "holds 16 bytes, expected 24"),
        (pickle.dumps({"features": to_base64(ONES)[:-5], "num_boxes": 2}), "field 'features' is damaged base64"),
        (pickle.dumps({"features": ONES, "num_boxes": 3}), "field 'num_boxes' is 3, of 2 regions"),
        (pickle.dumps({"features": ONES, "num_boxes": np.float32(1)}), "field 'num_boxes' is 1.0, of 2 regions"),
        (pickle.dumps({"features": ONES[0]}), r"holds shape \(2,\)"),
        (pickle.dumps({"features": np.array([[1, {}]], object)}), r"an array of \|O8, not of numbers"),
        (pickle.dumps({"features": np.array([["a", "b"]])}), "an array of <U1, not of numbers"),
    ],
)
def test_faulty_values_are_named(tmp_path: Path, value: bytes, message: str) -> None:
    with pytest.raises(UserError, match=rf"data\.mdb, key '7': .*{message}"):
        open_values(tmp_path, **{"7": value}).load("x_7.jpg", SPEC)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def payloads(canary: str) -> list[bytes]:
    touch = Call(os.mkdir, canary)
    system = Call(os.system, f"mkdir {canary}")
    objects = np.array([[touch, 1]], object)
    dotted = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93\x8c" + bytes([len(canary)]) + canary.encode() + b"\x85R."
    return [
        *(pickle.dumps({"features": payload}, protocol) for payload in (touch, system) for protocol in (2, 4, 5)),
        pickle.dumps(touch),
        pickle.dumps({touch: 1, "features": ONES}),
        pickle.dumps({"features": objects}),
        pickle.dumps({"features": ONES, "other": objects}),
        pickle.dumps({"features": Call(eval, f"__import__('os').mkdir({canary!r})")}),
        pickle.dumps({"features": Call(getattr, Path, "touch")}),
        dotted,
        npy_of(objects),
    ]


@pytest.mark.parametrize("number", range(len(payloads("/x"))))
def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, number: int) -> None:
    opened = open_values(tmp_path, a=payloads(str(tmp_path / "canary"))[number])
    with pytest.raises(UserError, match=r"it names .*, which is not run|Object arrays cannot be loaded"):
        opened.load("a", SPEC)
    assert not (tmp_path / "canary").exists()


def test_the_canary_can_sing(tmp_path: Path) -> None:
    pickle.loads(payloads(str(tmp_path / "canary"))[0])
    assert (tmp_path / "canary").exists()


def test_damaged_pickles_never_give_other_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {}
    for number in range(1000):
        data = bytearray(pickle.dumps({"features": ONES, "num_boxes": np.int64(2)}, number % 4 + 2))
        for place in rng.integers(2, len(data) - 1, 2):
            data[place] = rng.integers(256)
        values[f"a{number}"] = bytes(data)
    opened = open_values(tmp_path, **values)
    messages = {key: fault(opened, key) for key in values}
    assert all(f"data.mdb, key '{key}'" in message for key, message in messages.items() if message)
    # the damage is neither so light nor so heavy that nothing is tried
    assert 20 < sum(not message for message in messages.values()) < 500


def fault(opened: OpenRegions, key: str) -> str:
    try:
        assert opened.load(key, SPEC).tokens.shape == (SPEC.num_regions, SPEC.dim)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(10_000)])
def test_other_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.mdb").write_bytes(content)
    with pytest.raises(UserError, match=r"r\.mdb: not a readable LMDB"):
        RegionLmdb("r.mdb").open(tmp_path)


def test_truncated_files_are_refused_as_reading_them_would_kill_the_process(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "r", {str(key): bytes(8000) for key in range(100)})
    file = tmp_path / "r" / "data.mdb"
    with file.open("r+b") as data:
        data.truncate(file.stat().st_size // 2)
    with pytest.raises(UserError, match=r"data\.mdb: has \d+ bytes of \d+: copy the rest"):
        RegionLmdb("r").open(tmp_path)


def test_nothing_is_written_beside_the_data(tmp_path: Path) -> None:
    opened = open_values(tmp_path, a=ONES.tobytes())
    (tmp_path / "r" / "lock.mdb").unlink()
    (tmp_path / "r" / "data.mdb").chmod(0o444)
    opened.load("a", SPEC)
    RegionLmdb("r").open(tmp_path).load("a", SPEC)
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["data.mdb"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.mdb").touch()
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(
        UserError, match=r"r\.mdb: reading it needs the package lmdb; install ascl-lightning\[regions\]"
    ):
        RegionLmdb("r.mdb").open(tmp_path)
