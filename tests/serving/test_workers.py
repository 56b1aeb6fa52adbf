import asyncio
import threading

import pytest

from ascl_lightning.serving.workers import BusyError, Workers


def test_results_and_errors_come_back():
    async def both() -> int:
        workers = Workers(1, 2)
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0)
        return await workers.run(lambda: 3)

    assert asyncio.run(both()) == 3


def test_a_call_that_was_given_up_keeps_its_place_until_it_ends():
    go, begun, ran = threading.Event(), threading.Event(), []

    def block() -> None:
        begun.set()
        go.wait()

    async def scenario() -> None:
        workers = Workers(1, 2)
        first = asyncio.create_task(workers.run(block))
        second = asyncio.create_task(workers.run(lambda: ran.append("second")))
        await asyncio.to_thread(begun.wait)
        with pytest.raises(BusyError):
            await workers.run(lambda: None)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert not workers.has_room, "the thread is still busy"
        go.set()
        while not workers.has_room:
            await asyncio.sleep(0.001)
        assert await workers.run(lambda: "third") == "third"
        assert ran == [], "nobody waits for it any more"

    asyncio.run(scenario())


def test_closed_workers_accept_nothing():
    async def closed() -> None:
        workers = Workers(1, 1)
        workers.close()
        with pytest.raises(RuntimeError):
            await workers.run(lambda: None)
        assert workers.has_room

    asyncio.run(closed())
