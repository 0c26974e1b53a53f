"""Worker: claims a job, runs it, publishes what came of it; nothing it does half is ever seen.

    claim → work (renewing the lease) → files to the disk → finish

`python -m app.jobs.worker PARENT` is the embedded worker: it ends with the process PARENT that started it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import OperationalError

from app.errors import (
    NO_ROOM,
    BrokenModel,
    Canceled,
    HepasegError,
    InputError,
    NotReady,
    StorageFull,
    StorageUnreachable,
)
from app.jobs.job import INTERNAL_ERROR, Failure, Job, Notice, Status
from app.jobs.lease import HandedBack, Lease, Progress
from app.jobs.liveness import OwnerLocks
from app.jobs.logs import configure_logs, logger
from app.jobs.registry import Registry, WorkerState
from app.jobs.results import JobFiles
from app.jobs.store import TOO_MANY_ATTEMPTS, Claim, Outcome, Store
from app.settings import Settings

if TYPE_CHECKING:
    from app.inference.network import Network

#: Exit status of a worker whose networks cannot be used: starting it again would not help.
EXIT_BROKEN = 78
#: Exit status of a worker without the device that was asked for: it may come back.
EXIT_NOT_READY = 75

_log = logger("worker")
_HOUSEKEEPING_S = 600.0
#: After the store of files did not answer, so that a short outage does not use up the attempts of many jobs.
_STORAGE_PAUSE_S = 5.0
_FINISH_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
_OUT_OF_MEMORY = ("failed to allocate", "bad_alloc", "bad allocation", "out of memory", "cudaerrormemoryallocation")


@dataclass(frozen=True)
class Work:
    """What a job is about: files to read, and the empty folder to write results into."""

    scan: Path
    reference: Path | None
    output: Path
    series_uid: str | None = field(default=None, repr=False)
    prior: Path | None = None
    prior_report: Path | None = None


#: Does the work, telling how far it is; gives what a reader of the result should know.
Run = Callable[[Work, Progress], Sequence[Notice]]

#: Loads what runs jobs; gives it with the cards of its networks. Raises BrokenModel, or NotReady.
Prepare = Callable[[], tuple[Run, dict[str, object]]]


class Worker:
    """Runs jobs one after the other until `stop` is set; `id` is the owner that its claims name."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        run: Run,
        *,
        stop: threading.Event | None = None,
        worker_id: str | None = None,
    ) -> None:
        self.id = worker_id or new_worker_id()
        self.stop = stop or threading.Event()
        self._store = store
        self._settings = settings
        self._run = run
        self._files = JobFiles.of(settings)
        self._locks = OwnerLocks.of(settings)
        self._registry = Registry(store, settings)
        self._lease: Lease | None = None
        self._next_housekeeping = 0.0

    def loop(self) -> None:
        """Claim and run until told to stop."""
        with self.beating():
            while not self.stop.is_set():
                if not self._tick():
                    self.stop.wait(self._settings.poll_s)

    def drain(self) -> None:
        """Claim and run until nothing waits, or told to stop."""
        while not self.stop.is_set() and self._tick():
            pass

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Show that this worker lives, and keep its lease; the end tells it to stop."""
        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beats.start()
        _log.info("worker started", worker=self.id)
        try:
            yield
        finally:
            self.stop.set()
            beats.join()
            _log.info("worker stopped", worker=self.id)

    def run_once(self) -> bool:
        """Take back what dead workers held, then claim the most urgent job and run it; False if there was none."""
        self._reap()
        job = self._store.claim(self.id)
        if job is None:
            return False
        self.run_job(job)
        return True

    def run_job(self, job: Job) -> None:
        """Run a job that this worker has claimed, to whatever end; the one way in which jobs are run."""
        with structlog.contextvars.bound_contextvars(job=job.id, attempt=job.attempt):
            self._work(job)

    def _reap(self) -> None:
        for job in self._store.reap(self._locks.dead(self._store.owners())):
            _log.warning("job taken back", job=job.id, status=job.status, lost_attempts=job.lost_attempts)

    def _tick(self) -> bool:
        try:
            self._keep_house()
            return self.run_once()
        except Exception:
            # The store or the disk is out of reach: the lease hands the job on, and this worker tries again.
            _log.exception("worker stumbled")
            self.stop.wait(1.0)
            return True

    def _work(self, job: Job) -> None:
        claim = Claim(job.id, job.attempt, self.id)
        self._lease = Lease(self._store, claim, self.stop)
        started = time.monotonic()
        try:
            outcome = self._outcome(job, self._lease)
        except (MemoryError, NotReady) as error:
            _log.exception("attempt lost")
            self._store.lose(claim, Failure.of(error) if isinstance(error, StorageUnreachable) else TOO_MANY_ATTEMPTS)
            self._clear_up(claim)
            if isinstance(error, StorageUnreachable):
                self.stop.wait(_STORAGE_PAUSE_S)
            return
        finally:
            self._lease = None
        kept = self._finish(claim, outcome)
        self._clear_up(claim)
        status = outcome.status if kept else "lost"
        code = outcome.error.code if outcome.error else None
        _log.info("attempt ended", status=status, code=code, seconds=round(time.monotonic() - started, 3))

    def _finish(self, claim: Claim, outcome: Outcome) -> bool:
        """Tell the store; a database that is away for a moment shall not cost a whole attempt."""
        for pause_s in _FINISH_PAUSES_S:
            try:
                return self._store.finish(claim, outcome)
            except OperationalError:
                _log.warning("end of the attempt not written", exc_info=True)
                time.sleep(pause_s)
        return self._store.finish(claim, outcome)

    def _clear_up(self, claim: Claim) -> None:
        """Remove what the attempt wrote, unless it is what was published."""
        job = self._store.get(claim.job_id)
        try:
            if job.status is Status.EXPIRED:
                self._files.erase(job.id)
            elif job.published != claim.attempt:
                self._files.discard(job.id, claim.attempt)
        except StorageUnreachable:
            _log.warning("left for the sweep", exc_info=True)
        self._files.release(job.id)

    def _outcome(self, job: Job, lease: Lease) -> Outcome:
        try:
            return self._succeed(job, lease)
        except (MemoryError, NotReady):
            raise
        except Exception as error:
            if _is_out_of_memory(error):
                raise MemoryError from error
            return _ended_by(error)

    def _succeed(self, job: Job, lease: Lease) -> Outcome:
        output = self._files.attempt(job.id, job.attempt)
        try:
            scan, reference = self._files.scan(job.id), self._files.reference(job.id)
            series_uid, prior = self._files.series_uid(job.id), self._files.prior(job.id)
            prior_report = None if prior is None else self._files.prior_report(job.id)
            work = Work(scan, reference, output, series_uid, prior, prior_report)
            notices = self._run(work, lease.tell)
            self._files.seal(output)
        except BaseException:
            # At once: on a disk that is full of it nobody could write down how the attempt ended.
            with contextlib.suppress(StorageUnreachable):
                self._files.discard(job.id, job.attempt)
            raise
        return Outcome(Status.SUCCEEDED, warnings=tuple(notices))

    def _beat(self) -> None:
        pause = min(1.0, self._settings.lease_s / 3)
        while not self.stop.wait(pause) or self._lease is not None:
            lease = self._lease
            if lease is not None:
                lease.renew()
            try:
                self._registry.beat(self.id)
            except Exception:
                _log.warning("heartbeat not written", exc_info=True)
            if self.stop.is_set():
                time.sleep(pause)

    def _keep_house(self) -> None:
        if time.monotonic() < self._next_housekeeping:
            return
        self._next_housekeeping = time.monotonic() + _HOUSEKEEPING_S
        self._locks.tidy(self._store.owners())
        if self._settings.retention_days:
            keep = timedelta(days=self._settings.retention_days)
            for job in self._store.expire(self._store.clock() - keep):
                self._files.erase(job.id)
        self._files.sweep(self._is_kept)

    def _is_kept(self, job_id: str) -> bool:
        try:
            return self._store.get(job_id).status is not Status.EXPIRED
        except HepasegError:
            return False


def _ended_by(error: Exception) -> Outcome:
    """What an attempt comes to that raised; what nobody foresaw goes to the log and not to the client."""
    if isinstance(error, HandedBack):
        return Outcome(Status.QUEUED)
    if isinstance(error, Canceled):
        return Outcome(Status.CANCELED)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        error = StorageFull("There is no room left for the results.")
    if isinstance(error, InputError | StorageFull):
        return Outcome(Status.FAILED, Failure.of(error))
    _log.error("internal error", exc_info=error)
    return Outcome(Status.FAILED, INTERNAL_ERROR)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime ran out of memory; it has no class of its own for that."""
    ours = type(error).__module__.startswith("onnxruntime")
    return ours and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def new_worker_id() -> str:
    """A name that no worker had before."""
    return f"worker-{secrets.token_hex(6)}"


def work(settings: Settings, prepare: Prepare) -> None:
    """Be a worker until SIGTERM or SIGINT, which hand the running job back.

    With a broker it waits to be rung, without one it looks into the queue by itself. What `prepare` raises is
    published and raised again.
    """
    configure_logs(settings.log_level)
    if settings.broker_url:
        from app.jobs.engine import work_on_rings

        work_on_rings(settings, prepare)
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = Store.open(settings)
    registry = Registry(store, settings)
    name = new_worker_id()
    with OwnerLocks.of(settings).holding(name):
        run, cards = registry.prepared(name, prepare)
        registry.say(name, WorkerState.READY, models=cards)
        Worker(store, settings, run, stop=stop, worker_id=name).loop()
        registry.leave(name)


def main(settings: Settings) -> None:
    """`hepaseg worker`: load the networks and run jobs. Raises BrokenModel, or NotReady without its device."""
    work(settings, lambda: _prepare(settings))


def _prepare(settings: Settings) -> tuple[Run, dict[str, object]]:
    from app import pipeline
    from app.inference.cascade import Cascade
    from app.inference.manifest import load_networks

    runtime, limits, form = settings.runtime(), settings.limits(), settings.dicom_form()
    split, signer = settings.split_lesions, settings.signer()
    networks = load_networks(settings.models_dir, runtime)
    cascade = Cascade(networks, runtime)

    def run(work: Work, tell: Progress) -> list[Notice]:
        request = pipeline.Request(
            work.scan,
            work.reference,
            work.output,
            limits,
            work.series_uid,
            form,
            split,
            signer,
            work.prior,
            work.prior_report,
        )
        report = pipeline.run(request, cascade, tell)
        told = [found for found in report.quality.findings if found.severity != "info"]
        return [Notice(code=found.code, detail=found.detail) for found in told]

    return run, {network.card.task: _card(network) for network in networks}


def _card(network: Network) -> dict[str, object]:
    return {**network.card.model_dump(mode="json"), "sha256": network.sha256}


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the process `parent`, which started it, ends."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew
        sys.exit(1)


def embedded(arguments: Sequence[str], start: Callable[[Settings], None] = main) -> int:
    """The embedded worker as a process; gives its exit status."""
    die_with(int(arguments[0]))
    try:
        start(Settings())
    except BrokenModel as error:
        _log.error("networks cannot be used", detail=error.detail)
        return EXIT_BROKEN
    except NotReady as error:
        _log.error("not ready", detail=error.detail)
        return EXIT_NOT_READY
    return 0


if __name__ == "__main__":
    sys.exit(embedded(sys.argv[1:]))
