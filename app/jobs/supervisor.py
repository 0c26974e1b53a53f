"""The embedded worker, seen from the process that serves HTTP: a child that is started again when it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.jobs.logs import logger
from app.jobs.worker import EXIT_BROKEN
from app.settings import Settings

_log = logger("supervisor")
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_LOOK_EVERY_S = 0.1
#: A worker that lived this long starts the next one without the pause that its predecessors earned.
_HEALTHY_S = 30.0


class EmbeddedWorker:
    """Keeps one worker process alive; `on_broken` is called when it says that its networks cannot be used.

    The process ends with this one, however this one ends (see `die_with`).
    """

    def __init__(self, settings: Settings, on_broken: Callable[[], None], command: Sequence[str] | None = None) -> None:
        self._settings = settings
        self._on_broken = on_broken
        self._command = command or (sys.executable, "-m", "app.jobs.worker")
        self._stop = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        # The kernel ties the child to the thread that started it: this one lives as long as the service.
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self.broken = False

    def start(self) -> None:
        """Start the worker and watch over it."""
        self._thread.start()

    def stop(self) -> None:
        """Let the worker hand its job back and end; kill it if it takes too long."""
        self._stop.set()
        if self._thread.is_alive():  # not where workers are started elsewhere
            self._thread.join()

    def _supervise(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            started = time.monotonic()
            status = self._run()
            if self._stop.is_set():
                return
            if status == EXIT_BROKEN:
                self.broken = True
                self._on_broken()
                return
            if time.monotonic() - started > _HEALTHY_S:
                pause_s = _FIRST_PAUSE_S
            _log.error("worker died", status=status, again_in_s=pause_s)
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run(self) -> int:
        environment = {**os.environ, **self._settings.environment()}
        # A session of its own: Ctrl-C in a terminal reaches the service alone, which then stops the worker in order.
        child = subprocess.Popen([*self._command, str(os.getpid())], env=environment, start_new_session=True)
        stopped_s = 0.0
        while child.poll() is None:
            if self._stop.wait(_LOOK_EVERY_S):
                return self._end(child)
            stopped_s = stopped_s + _LOOK_EVERY_S if _is_stopped(child.pid) else 0.0
            if stopped_s > self._settings.lease_s:
                # Its lease has run out; and should it have been stopped in a transaction, nobody can write.
                _log.error("worker stood still")
                child.kill()
        return child.returncode

    def _end(self, child: subprocess.Popen[bytes]) -> int:
        child.terminate()
        try:
            return child.wait(self._settings.stop_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def _is_stopped(pid: int) -> bool:
    """Whether a signal, or somebody with a debugger, has stopped the process."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")
