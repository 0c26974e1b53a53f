"""Two scans at a time: none is lost, none is mixed up, and none begins for which there is no room."""

import threading
import time
from contextlib import closing

import pytest

from app.lanes import in_lanes
from tests.waiting import PATIENCE_S


def nothing(_case: int) -> int:
    return 0


def test_every_case_comes_back_once_with_its_place():
    found = dict(in_lanes([3, 1, 2, 5], lambda _place, case, _stop: case * 10, nothing, 0))
    assert found == {0: 30, 1: 10, 2: 20, 3: 50}
    assert list(in_lanes([], lambda *_: None, nothing, 0)) == []


def test_two_are_worked_on_at_a_time_if_there_is_room():
    together = threading.Barrier(2)
    assert len(list(in_lanes([1, 1], lambda *_: together.wait(PATIENCE_S), lambda case: case, 2))) == 2


@pytest.mark.parametrize(("sizes", "room"), [([6, 6, 6, 6], 10), ([20, 1, 20, 1], 10), ([3, 8, 3, 8], 10)])
def test_what_does_not_fit_together_is_not_worked_on_together_and_what_fits_nowhere_alone(sizes, room):
    inside: list[int] = []
    most: list[tuple[int, int]] = []

    def work(_place: int, size: int, _stop: threading.Event) -> None:
        inside.append(size)
        most.append((len(inside), sum(inside)))
        time.sleep(0.02)
        inside.remove(size)

    assert len(list(in_lanes(sizes, work, lambda size: size, room))) == len(sizes)
    assert all(count == 1 or taken <= room for count, taken in most)


def test_who_ends_the_command_ends_what_is_worked_on_and_nothing_more_begins():
    began: list[int] = []

    def work(place: int, _case: int, stop: threading.Event) -> int:
        began.append(place)
        if place:
            assert stop.wait(PATIENCE_S)
        return place

    with closing(in_lanes(list(range(50)), work, nothing, 0)) as ended:
        assert next(ended) == (0, 0)
    assert len(began) <= 4


def test_of_one_scan_alone_nobody_asks_what_it_needs():
    def asked(_case: int) -> int:
        raise AssertionError("asked")

    assert list(in_lanes([7], lambda _place, case, _stop: case, asked, 0)) == [(0, 7)]


def test_a_bug_is_not_swallowed():
    def work(place: int, _case: int, _stop: threading.Event) -> int:
        return 1 // place

    with pytest.raises(ZeroDivisionError):
        list(in_lanes([1, 1, 1], work, nothing, 0))
