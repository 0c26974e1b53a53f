"""What the queue itself costs a job, and how true its promises are; exits with 1 if a figure is not reached.

python benchmarks/queue.py [--jobs 200] [--database sqlite|postgresql|both] [--cancels 20]

PostgreSQL is started for the occasion (apt-get install postgresql), with every commit on the disk. Cancels meet the
shipped networks at work on a synthetic CT, at moments spread over the whole run.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from app.errors import Conflict
from app.imaging.nifti import write_volume
from app.jobs import worker
from app.jobs.job import Notice, Status
from app.jobs.lease import Progress
from app.jobs.logs import configure_logs
from app.jobs.results import JobFiles
from app.jobs.store import Order, Store
from app.jobs.waiting import counts, place_of
from app.jobs.worker import Work, Worker
from app.settings import Settings
from tests.services import Postgres
from training.phantom import abdomen

LIMIT_MS = 20.0
#: Promises may be off by so much of the time that was waited, in the middle.
LIMIT_ERROR = 0.25
MEGAVOXEL_S = 0.004
#: Seconds after which a running job must be canceled, wherever in its run that hits it.
LIMIT_CANCEL_S = 2.0
SHAPE, SPACING_MM = (512, 512, 400), (0.8, 0.8, 1.0)


def stub(work: Work, tell: Progress) -> Sequence[Notice]:
    """A pipeline that computes nothing and writes one small file."""
    tell("write", 0.9)
    (work.output / "report.json").write_bytes(work.scan.read_bytes())
    return []


def overhead_ms(settings: Settings, jobs: int) -> tuple[float, float]:
    """Mean ms a job to queue it (its files on the disk), and to claim, publish and clear up."""
    store, files = Store.open(settings), JobFiles.of(settings)
    started = time.perf_counter()
    for n in range(jobs):
        folder = files.create(f"job{n}")
        (folder / "scan").write_bytes(b"scan")
        files.seal(folder)
        store.add(Order(f"job{n}", voxels=1))
    queued = time.perf_counter()
    worker = Worker(store, settings, stub)
    while worker.run_once():
        pass
    ended = time.perf_counter()
    done = [store.get(f"job{n}") for n in range(jobs)]
    assert all(job.status is Status.SUCCEEDED and job.attempt == 1 for job in done), "a job was lost or done twice"
    store.engine.dispose()
    return 1000 * (queued - started) / jobs, 1000 * (ended - queued) / jobs


class Promises:
    """Jobs of very different sizes, and what each was told when it came."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self._store, self._files, self._dice = Store.open(settings), JobFiles.of(settings), random.Random(7)
        self._settings, self._workers = settings, workers
        self._told: dict[str, float] = {}

    def kept(self, jobs: int) -> list[tuple[float, float]]:
        """(promised, waited) seconds of jobs that come all at once to workers with some experience."""
        team = [Worker(self._store, self._settings, self._work) for _ in range(self._workers)]
        threads = [threading.Thread(target=worker.loop) for worker in team]
        for thread in threads:
            thread.start()
        for count, kind in ((8, "first"), (jobs, "job")):
            self._told.clear()
            for n in range(count):
                self._add(f"{kind}{n}")
            while any(counts(self._store)[status] for status in (Status.QUEUED, Status.RUNNING)):
                time.sleep(0.01)
        for each, thread in zip(team, threads, strict=True):
            each.stop.set()
            thread.join()
        ended = [(told, self._store.get(name)) for name, told in self._told.items()]
        self._store.engine.dispose()
        return [(told, (job.completed_at - job.created_at).total_seconds()) for told, job in ended if job.completed_at]

    def _add(self, name: str) -> None:
        (self._files.create(name) / "scan").write_bytes(b"scan")
        job, _ = self._store.add(Order(name, voxels=512 * 512 * self._dice.randint(20, 700)))
        place = place_of(self._store, job, self._workers)
        if place is not None and place.eta_s is not None:
            self._told[name] = place.eta_s

    def _work(self, work: Work, tell: Progress) -> Sequence[Notice]:
        voxels = self._store.get(work.output.parent.parent.name).voxels
        time.sleep((0.05 + MEGAVOXEL_S * voxels / 1e6) * self._dice.uniform(0.8, 1.2))
        return stub(work, tell)


class Cancels:
    """The real pipeline on one scan, canceled again and again."""

    def __init__(self, folder: Path) -> None:
        self._settings = Settings(data_dir=folder / "data", min_free_bytes=0, queue_limit=10_000)
        self._store, self._files = Store.open(self._settings), JobFiles.of(self._settings)
        self._run, _ = worker._prepare(self._settings)  # noqa: SLF001 - what `hepaseg worker` runs
        write_volume(folder / "ct.nii.gz", abdomen(0, SHAPE, SPACING_MM).volume)
        self._scan = (folder / "ct.nii.gz").read_bytes()

    def seconds(self, count: int) -> tuple[float, list[tuple[str, float]]]:
        """How long an undisturbed run takes; and for each cancel the stage that it met, and the seconds to the end."""
        whole = self._timed("whole", None)
        assert self._store.get("whole").status is Status.SUCCEEDED
        took_s, _ = whole
        found = [self._timed(f"job{n}", took_s * (n + 0.5) / count) for n in range(count)]
        self._store.engine.dispose()
        return took_s, [(stage, ended_s) for ended_s, stage in found if stage]

    def _timed(self, name: str, after_s: float | None) -> tuple[float, str]:
        """Seconds from the start, or from the cancel that comes `after_s`, to the end; and the stage then."""
        (self._files.create(name) / "scan").write_bytes(self._scan)
        self._store.add(Order(name))
        team = Worker(self._store, self._settings, self._run)
        thread = threading.Thread(target=team.loop)
        since, stage = time.perf_counter(), ""
        thread.start()
        if after_s is not None:
            time.sleep(after_s)
            stage = self._store.get(name).stage or ""
            since = time.perf_counter()
            with contextlib.suppress(Conflict):  # this time it was faster
                self._store.cancel(name)
        while self._store.get(name).completed_at is None:
            time.sleep(0.01)
        took_s = time.perf_counter() - since
        team.stop.set()
        thread.join()
        return took_s, stage


def canceled(count: int) -> bool:
    """Whether running jobs end soon after they are canceled."""
    with tempfile.TemporaryDirectory() as folder:
        took_s, found = Cancels(Path(folder)).seconds(count)
    slowest = max(found, key=lambda each: each[1])
    print(
        f"cancels     {len(found)} in a run of {took_s:.1f} s, {'x'.join(map(str, SHAPE))}: "
        f"{statistics.median(s for _, s in found):.2f} s in the middle, at most {slowest[1]:.2f} s, "
        f"in {slowest[0]} (limit {LIMIT_CANCEL_S:.0f} s)"
    )
    return slowest[1] < LIMIT_CANCEL_S


def main() -> int:
    """Measure and print; 1 if a figure is not reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--cancels", type=int, default=20)
    given = parser.parse_args()
    configure_logs("error")
    kinds = ["sqlite", "postgresql"] if given.database == "both" else [given.database]
    server = None
    failed = False
    try:
        if "postgresql" in kinds:
            server = Postgres(durable=True)
            server.start()
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder:
                url = server.database() if kind == "postgresql" and server else ""
                many = {"queue_limit": 10_000, "min_free_bytes": 0, "poll_s": 0.01, "retention_days": 0}
                settings = Settings(data_dir=Path(folder), database_url=url, **many)
                queue_ms, run_ms = overhead_ms(settings, given.jobs)
                total = queue_ms + run_ms
                failed |= total >= LIMIT_MS
                print(
                    f"{kind:10}  {given.jobs} jobs  queue {queue_ms:.1f} ms  run {run_ms:.1f} ms  "
                    f"together {total:.1f} ms a job (limit {LIMIT_MS:.0f})"
                )
        failed |= not calibrated()
        failed |= bool(given.cancels) and not canceled(given.cancels)
    finally:
        if server is not None:
            server.close()
    return int(failed)


def calibrated() -> bool:
    """Whether what jobs are told is near to what comes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), poll_s=0.01, queue_limit=10_000)
        found = Promises(settings, workers=2).kept(40)
    errors = [abs(promised - waited) / waited for promised, waited in found]
    middle, worst = statistics.median(errors), statistics.quantiles(errors, n=10)[-1]
    bias = statistics.median(promised / waited for promised, waited in found)
    print(
        f"promises    {len(found)} jobs, 2 workers, 5 to 180 megavoxels: off by {100 * middle:.0f} % in the middle, "
        f"{100 * worst:.0f} % for one in ten; promised / waited {bias:.2f} (limit {100 * LIMIT_ERROR:.0f} %)"
    )
    return middle < LIMIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
