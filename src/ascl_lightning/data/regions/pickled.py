"""Numpy arrays out of pickles, without running what a pickle names.

A pickle is a list of functions to call. Those that numpy's arrays need stand here for classes that keep what they are
given, and all others are refused. numpy's own functions are not called either: they believe any layout of memory that
a pickle claims.
"""

import io
import pickle
import re
from typing import Any

import numpy as np


class PickledArray:
    """An array or a number of numpy, as a pickle describes it; what `numpy._core.multiarray._reconstruct` stands for.

    Args:
        ignored: The type and the shape of an array still to be filled.
    """

    def __init__(self, *ignored: object) -> None:
        self.__setstate__((1, (), None, False, b""))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self._shape, self._dtype, self._fortran, self._data = state

    def build(self) -> np.ndarray:
        """The array itself.

        Raises:
            ValueError: If it holds something else than numbers, or other bytes than its shape takes.
        """
        if not isinstance(self._dtype, _PickledDtype):
            raise ValueError("an array without a type of numbers")
        flat: np.ndarray = np.frombuffer(self._data, self._dtype.build())
        return flat.reshape(self._shape, order="F" if self._fortran else "C")


class _PickledDtype:
    def __init__(self, code: str | bytes, *ignored: object) -> None:
        self._code = _text(code)
        self._order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = _text(state[1])

    def build(self) -> "np.dtype[Any]":
        name = self._order + self._code
        if not re.fullmatch(r"[<>=|][biuf][0-9]{1,2}", name):
            raise ValueError(f"an array of {name}, not of numbers")
        return np.dtype(name)


def read_pickle(data: bytes) -> Any:
    """Read a pickle of containers, numbers, text and numpy's arrays, which come as `PickledArray`.

    Args:
        data: The pickle; text of Python 2 comes as bytes.

    Raises:
        pickle.UnpicklingError: If it names anything else. Damaged ones raise nearly any error.
    """
    return _Unpickler(io.BytesIO(data), encoding="bytes").load()


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _scalar(dtype: object, data: object) -> PickledArray:
    array = PickledArray()
    array.__setstate__((1, (), dtype, False, data))
    return array


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> PickledArray:
    array = PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _no_bytes() -> bytes:
    """Empty bytes in a pickle of protocol 2."""
    return b""


def _encode(text: str, encoding: str) -> bytes:
    """Other bytes in a pickle of protocol 2, which are written as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes encoded as {encoding}")
    return text.encode("latin1")


_KNOWN = {
    ("numpy._core.multiarray", "_reconstruct"): PickledArray,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _PickledDtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy before version 2 has no underscore there
        known = _KNOWN.get((module.replace("numpy.core.", "numpy._core."), name))
        if known is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not run")
        return known
