"""Work that threads share."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AHEAD = 64
"""Items that are started before the result of the first is taken."""

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def side_by_side(function: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """Results of a function, in the order of the items, computed by threads; only `_AHEAD` items are started early.

    Decoders and hashes release the interpreter lock, so that threads serve as well as processes.

    Example:
        >>> list(side_by_side(len, ["a", "bc"]))
        [1, 2]
    """
    with ThreadPoolExecutor() as pool:
        begun: deque[Future[_Made]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(function, item))
                if len(begun) == _AHEAD:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
