"""Two scans at a time: while a core reads, measures or writes one of them, the other's networks have the rest."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from app.errors import Canceled

if TYPE_CHECKING:
    from app.pipeline import Progress

T = TypeVar("T")
R = TypeVar("R")

#: More would wait for the same cores, each with a scan in memory.
LANES = 2


def in_lanes(
    cases: Sequence[T], work: Callable[[int, T, threading.Event], R], needs: Callable[[T], int], room: int
) -> Generator[tuple[int, R]]:
    """The place of each case, and what `work` made of it, in the order in which they end; to be closed.

    work: gets the place, the case, and an event that is set once nobody waits for it any more. needs: how many bytes
    a case will take; two that would not fit into `room` together are not worked on together. Raises what `work` raises.
    """
    stop, gate = threading.Event(), _Gate(room)
    if len(cases) > 1:
        # Libraries repeat values of headers in warnings, and one thread's catch_warnings undoes another's.
        warnings.simplefilter("ignore")

    def one(place: int, case: T) -> R:
        # of a series the answer is in the headers of all slices, and one alone is admitted anyway
        with gate.admitted(needs(case) if len(cases) > 1 else 0):
            return work(place, case, stop)

    with ThreadPoolExecutor(min(LANES, max(1, len(cases))), "scan") as pool:
        running = {pool.submit(one, place, case): place for place, case in enumerate(cases)}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def until(stop: threading.Event, tell: Progress) -> Progress:
    """Progress that ends the run once nobody waits for it any more."""

    def told(stage: str, share: float) -> None:
        if stop.is_set():
            raise Canceled("The command was ended.")
        tell(stage, share)

    return told


class _Gate:
    """Admits who fits into the room beside those who are in, and whoever comes when nobody is."""

    def __init__(self, room: int) -> None:
        self._room, self._taken, self._inside = room, 0, 0
        self._changed = threading.Condition()

    @contextmanager
    def admitted(self, needed: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._inside or self._taken + needed <= self._room)
            self._taken, self._inside = self._taken + needed, self._inside + 1
        try:
            yield
        finally:
            with self._changed:
                self._taken, self._inside = self._taken - needed, self._inside - 1
                self._changed.notify_all()
