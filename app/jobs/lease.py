"""A claim that is kept alive while the work goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from app.errors import Canceled
from app.jobs.logs import logger
from app.jobs.store import Claim, Signal, Store

_log = logger("lease")
_REPORT_EVERY_S = 0.25

#: (stage, fraction of the whole job); raises when the work shall end.
Progress = Callable[[str, float], None]


class Lost(Canceled):
    """The job is no longer this worker's."""


class HandedBack(Canceled):
    """The worker is told to stop; another may take the job."""


class Lease:
    """A claim that is kept alive, and the progress that is told with it.

    A thread renews it, so that a long step without news does not lose the job; `tell` is what the work calls, and
    is where the work learns that it shall stop.
    """

    def __init__(self, store: Store, claim: Claim, stop: threading.Event) -> None:
        self._store = store
        self._claim = claim
        self._stop = stop
        self._lock = threading.Lock()
        self._stage: str | None = None
        self._progress = 0.0
        self._told_at = 0.0
        self._signal = Signal.GO

    def tell(self, stage: str, progress: float) -> None:
        """Take note of the progress; raises Lost, Canceled or HandedBack if the work shall end."""
        news = stage != self._stage or time.monotonic() - self._told_at >= _REPORT_EVERY_S
        self._stage, self._progress = stage, min(1.0, max(0.0, progress))
        if news:
            self.renew()
        if self._signal is Signal.LOST:
            raise Lost("The job was taken over.")
        if self._signal is Signal.CANCEL:
            raise Canceled("The job was canceled.")
        if self._stop.is_set():
            raise HandedBack("The worker stops.")

    def renew(self) -> None:
        """Tell the store; a store that cannot be reached is tried again at the next beat."""
        with self._lock:
            try:
                self._signal = self._store.renew(self._claim, self._stage, self._progress)
                self._told_at = time.monotonic()
            except Exception:
                _log.warning("lease not renewed", exc_info=True)
