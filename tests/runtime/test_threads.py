import threading

import pytest

from ascl_lightning.errors import UserError
from ascl_lightning.runtime import threads
from ascl_lightning.runtime.threads import side_by_side


def test_results_keep_the_order_and_few_items_are_taken_early(monkeypatch):
    monkeypatch.setattr(threads, "_AHEAD", 8)
    taken, slow = [], threading.Event()

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    def square(number: int) -> int:
        if number == 0:
            slow.wait(0.05)
        return number * number

    results = side_by_side(square, items())
    assert next(results) == 0
    assert len(taken) == 8
    assert [0, *results] == [number * number for number in range(100)]


def test_the_first_error_stops_the_remaining_items(monkeypatch):
    monkeypatch.setattr(threads, "_AHEAD", 4)
    begun = []

    def fail(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise UserError("no")
        return number

    results = side_by_side(fail, range(100))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(UserError, match="no"):
        next(results)
    assert max(begun) <= 6
