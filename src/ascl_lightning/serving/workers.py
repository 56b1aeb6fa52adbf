"""Threads for blocking calls, with a bounded queue."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


class BusyError(Exception):
    """All places of the queue are taken."""


class Workers:
    """Threads that run blocking calls, for one event loop.

    A call keeps its place until it has ended, also if nobody waits for it any more: late calls cannot pile up. One that
    nobody waits for is not begun.

    Args:
        threads: Number of threads.
        places: Number of calls that run or wait.
    """

    def __init__(self, threads: int, places: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._places = threading.BoundedSemaphore(places)

    async def run(self, function: Callable[[], _Result]) -> _Result:
        """Waits for the result of a call.

        Raises:
            BusyError: If no place is free.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError
        abandoned = threading.Event()

        def call() -> _Result:
            try:
                if abandoned.is_set():
                    raise asyncio.CancelledError
                return function()
            finally:
                self._places.release()

        try:
            waiting = asyncio.wrap_future(self._pool.submit(call))
        except RuntimeError:
            # closed
            self._places.release()
            raise
        try:
            # cancelling the call itself would leave it in the pool's queue without a place
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            abandoned.set()
            waiting.add_done_callback(_retrieve)
            raise

    @property
    def has_room(self) -> bool:
        """Whether another call would be accepted now."""
        if not self._places.acquire(blocking=False):
            return False
        self._places.release()
        return True

    def close(self) -> None:
        """Drops calls that have not begun, and accepts no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _retrieve(future: "asyncio.Future[_Result]") -> None:
    """Takes the exception of a call that nobody waits for, which asyncio would log otherwise."""
    if not future.cancelled():
        future.exception()
