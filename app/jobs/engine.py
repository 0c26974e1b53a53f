"""Celery as the engine: its message wakes a worker, which claims the most urgent job from the database.

    main process    Celery's consumer; touches neither CUDA nor the database
    child           the networks, the heartbeat, one job at a time; another one takes its place if it dies

Messages carry an id and may be lost: the child also looks by itself, with the broker or without it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator

from app.errors import BrokenModel, NotReady
from app.jobs.bell import QUEUE, TASK, application_of
from app.jobs.liveness import OwnerLocks
from app.jobs.logs import logger
from app.jobs.registry import Registry, WorkerState
from app.jobs.store import Store
from app.jobs.worker import Prepare, Worker, die_with, new_worker_id
from app.settings import Settings

_log = logger("engine")


class _Child:
    """The process that computes: begins with the fork, ends with Celery's pool or with its parent."""

    def __init__(self, settings: Settings, prepare: Prepare) -> None:
        self._settings = settings
        self._prepare = prepare
        self._parent = os.getpid()
        self._stop = threading.Event()
        # Shared with the parent: a page of memory that both have.
        self._broken = mmap.mmap(-1, 1)
        self._worker: Worker | None = None
        self._at_work = threading.Lock()
        self._open = contextlib.ExitStack()

    def begin(self, **_: object) -> None:
        """Load the networks and say so; if they are broken, end the parent, for starting again would not help."""
        die_with(self._parent)
        try:
            self._begin()
        except (BrokenModel, NotReady) as error:
            _log.error("networks cannot be used", detail=error.detail)
            self._broken[0] = 1
            os.kill(self._parent, signal.SIGTERM)
        except Exception:
            # The database is out of reach, or worse: another child tries again.
            _log.exception("child cannot begin")
            time.sleep(1.0)
            os._exit(1)

    def _begin(self) -> None:
        store = Store.open(self._settings)
        registry = Registry(store, self._settings)
        name = new_worker_id()
        self._open.enter_context(OwnerLocks.of(self._settings).holding(name))
        run, cards = registry.prepared(name, self._prepare)
        worker = Worker(store, self._settings, run, stop=self._stop, worker_id=name)
        self._open.callback(registry.leave, name)
        self._open.enter_context(worker.beating())
        registry.say(name, WorkerState.READY, models=cards)
        self._worker = worker
        self._open.enter_context(self._looking())

    def on_ring(self, job_id: str) -> None:  # noqa: ARG002 - the database says which job is the most urgent
        """Work until nothing waits any more; as long as that takes, Celery has no further ring for this child."""
        # Not before: Celery's pool puts its own handler, which would end the process in the middle, last.
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        self._drain()

    def _drain(self) -> None:
        if self._worker is not None:
            with self._at_work:
                self._worker.drain()

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        """Look into the queue now and then without being rung: rings get lost, brokers go away, and workers die."""
        looks = threading.Thread(target=self._look, name="looks", daemon=True)
        looks.start()
        try:
            yield
        finally:
            self._stop.set()
            looks.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            self._drain()
            self._stop.wait(self._settings.look_s)

    def is_broken(self) -> bool:
        """Whether a child found that the networks cannot be used."""
        return bool(self._broken[0])

    def end(self, **_: object) -> None:
        """Take the worker off the list."""
        self._open.close()


def work_on_rings(settings: Settings, prepare: Prepare) -> None:
    """Be a Celery worker with one child until SIGTERM or SIGINT, which hand the running job back.

    Raises BrokenModel if the networks cannot be used.
    """
    from celery import signals

    application = application_of(settings)
    child = _Child(settings, prepare)
    application.task(child.on_ring, name=TASK)
    signals.worker_process_init.connect(child.begin, weak=False)
    signals.worker_process_shutdown.connect(child.end, weak=False)
    signals.worker_shutting_down.connect(_tell_children, weak=False)
    worker = application.Worker(
        concurrency=1,
        hostname=f"hepaseg-{os.getpid()}@%h",
        loglevel=settings.log_level.upper(),
        pool="prefork",
        queues=[QUEUE],
        quiet=True,
        without_gossip=True,
        without_heartbeat=True,
        without_mingle=True,
    )
    worker.start()
    if child.is_broken():
        raise BrokenModel("The networks cannot be used; the log says why.")


def _tell_children(**_: object) -> None:
    """A stop in order: the child hands its job back, and Celery's pool ends once it has."""
    from billiard.process import active_children  # type: ignore[import-untyped]

    for process in active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
