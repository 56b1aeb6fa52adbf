import codecs
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ascl_lightning.data.regions.pickled import PickledArray, read_pickle

NUMBERS = arrays.boolean_dtypes() | arrays.integer_dtypes(endianness="?") | arrays.floating_dtypes(endianness="?")


@given(
    arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    st.integers(2, 5),
    st.sampled_from("CF"),
)
def test_any_array_of_numbers(array: np.ndarray, protocol: int, order: str) -> None:
    array = np.asarray(array, order=order)
    found = read_pickle(pickle.dumps({"features": array, "n": len(array.shape)}, protocol))
    # Python 2's text comes as bytes, which both are in protocol 2
    values = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
    built = values["features"].build()
    np.testing.assert_array_equal(built, array)
    assert (built.dtype, built.shape, values["n"]) == (array.dtype, array.shape, array.ndim)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("number", [np.float32(1.5), np.int64(-7), np.bool_(True)])
def test_numbers_of_numpy(number: np.generic, protocol: int) -> None:
    found = read_pickle(pickle.dumps(number, protocol))
    assert isinstance(found, PickledArray)
    assert found.build().item() == number.item()


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "a", None], object),
        np.array(["a", "bc"]),
        np.array([1 + 2j]),
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.array(["2020-01-01"], "M8[D]"),
    ],
)
def test_what_holds_something_else_than_numbers(array: np.ndarray) -> None:
    try:
        found = read_pickle(pickle.dumps(array))
    except pickle.UnpicklingError:
        return  # it names what its values need
    with pytest.raises((ValueError, TypeError)):
        found.build()


def test_an_array_that_was_never_filled() -> None:
    with pytest.raises(ValueError, match="without a type of numbers"):
        PickledArray(np.ndarray, (0,), b"b").build()


@pytest.mark.parametrize("shape", [(2, 2), (-1, 5), (1 << 40,), ()])
def test_a_shape_that_its_bytes_do_not_fill(shape: tuple[int, ...]) -> None:
    found = read_pickle(pickle.dumps(np.zeros(3, np.float32)))
    found.__setstate__((1, shape, found._dtype, False, bytes(12)))
    with pytest.raises(ValueError, match="reshape"):
        found.build()


class Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("function", [print, eval, np.load, np.fromfile, np.lib.format.read_array, pickle.loads, type])
def test_what_a_pickle_names_is_refused(function: object) -> None:
    with pytest.raises(pickle.UnpicklingError, match="which is not run"):
        read_pickle(pickle.dumps(Call(function, "x")))


def test_bytes_as_protocol_2_writes_them() -> None:
    assert read_pickle(pickle.dumps([b"", b"\x00\xff"], 2)) == [b"", b"\x00\xff"]
    with pytest.raises(pickle.UnpicklingError, match="bytes encoded as rot13"):
        read_pickle(pickle.dumps(Call(codecs.encode, "abc", "rot13")))
