"""Maps a function over items in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AHEAD = 64
"""Items in progress at a time."""

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def side_by_side(function: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """Yields the results of a function in the order of the items, computed by threads, `_AHEAD` items at a time.

    Image decoders and hashes release the interpreter lock, so threads are as fast as processes.

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
