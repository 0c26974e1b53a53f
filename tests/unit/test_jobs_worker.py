"""The worker with work that the test makes up, on a real store and real folders."""

import contextlib
import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from app.errors import Canceled, NoLiver, NotReady
from app.jobs.job import Job, Notice, Status
from app.jobs.liveness import OwnerLocks
from app.jobs.results import JobFiles
from app.jobs.store import Claim, Order, Outcome, Store
from app.jobs.worker import Work, Worker
from app.settings import Settings
from tests.waiting import PATIENCE_S, until


class Bench:
    """A store with one waiting job, and workers for it."""

    def __init__(self, folder: Path, **given: object) -> None:
        self.settings = Settings(data_dir=folder, poll_s=0.02, max_attempts=2, **{"lease_s": 1.0, **given})
        self.store = Store.open(self.settings)
        self.files = JobFiles(folder)

    def add(self, job_id: str = "a") -> None:
        (self.files.create(job_id) / "scan").write_bytes(b"scan of " + job_id.encode())
        self.store.add(Order(job_id))

    def run(self, work: Callable, **given: object) -> Job:
        Worker(self.store, self.settings, work, **given).run_once()
        return self.store.get("a")

    def left(self, job_id: str = "a") -> list[str]:
        folder = self.settings.data_dir / "jobs" / job_id
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def bench(tmp_path: Path):
    bench = Bench(tmp_path)
    bench.add()
    yield bench
    bench.store.engine.dispose()


def copy(work: Work, tell: Callable) -> list[Notice]:
    tell("read", 0.1)
    (work.output / "report.json").write_bytes(work.scan.read_bytes())
    tell("write", 0.9)
    return [Notice(code="c", detail="d")]


@contextlib.contextmanager
def looping(worker: Worker) -> Iterator[None]:
    """The worker in a thread, told to stop at the end."""
    thread = threading.Thread(target=worker.loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stop.set()
        thread.join(PATIENCE_S)


def test_a_job_that_went_well_is_published_with_its_warnings(bench: Bench):
    job = bench.run(copy)
    assert (job.status, job.published, job.progress, job.stage) == (Status.SUCCEEDED, 1, 1.0, None)
    assert job.warnings == (Notice(code="c", detail="d"),)
    assert bench.files.result("a", 1, "report.json").read_bytes() == b"scan of a"


def test_input_that_cannot_be_used_fails_the_job_with_its_code_and_leaves_no_results(bench: Bench):
    def work(work: Work, tell: Callable) -> list[Notice]:
        (work.output / "labels.nii.gz").write_bytes(b"half")
        raise NoLiver("No liver was found in this scan.")

    job = bench.run(work)
    assert job.status is Status.FAILED
    assert job.error.model_dump() == {
        "code": "no_liver",
        "title": "No liver found",
        "detail": "No liver was found in this scan.",
    }
    assert bench.left() == ["scan"]


def test_a_bug_is_told_to_the_log_and_not_to_the_client(bench: Bench, capsys):
    def work(work: Work, tell: Callable) -> list[Notice]:
        raise RuntimeError("Doe, John")

    job = bench.run(work)
    assert job.status is Status.FAILED
    assert json.dumps(job.error.model_dump()) == json.dumps(
        {"code": "internal_error", "title": "Internal error", "detail": "Internal error."}
    )
    assert "RuntimeError" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_fails_the_job_with_the_reason(bench: Bench, number: int):
    def work(work: Work, tell: Callable) -> list[Notice]:
        (work.output / "labels.nii.gz").write_bytes(b"half")
        raise OSError(number, "no room")

    job = bench.run(work)
    assert (job.status, job.error.code) == (Status.FAILED, "storage_full")
    assert bench.left() == ["scan"]


class OnnxRuntimeError(Exception):
    """As ONNX Runtime raises it: a class per status code, none of them for memory."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


OUT_OF_MEMORY = OnnxRuntimeError(
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Status "
    "Message: bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 4294967296"
)


def test_another_failure_of_the_network_is_not_taken_for_a_lack_of_memory(bench: Bench):
    def work(work: Work, tell: Callable) -> list[Notice]:
        raise OnnxRuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input")

    assert bench.run(work).error.code == "internal_error"


def test_the_end_of_an_attempt_is_told_again_when_the_database_was_away(bench: Bench):
    told = []

    class Away(Store):
        def finish(self, claim: Claim, outcome: Outcome) -> bool:
            told.append(outcome.status)
            if len(told) < 3:
                raise OperationalError("finish", {}, OSError("connection refused"))
            return super().finish(claim, outcome)

    Worker(Away(bench.store.engine, bench.settings), bench.settings, copy).run_once()
    assert bench.store.get("a").status is Status.SUCCEEDED
    assert told == [Status.SUCCEEDED] * 3


def test_a_disk_that_really_is_full_fails_the_job_with_the_reason_and_is_free_again(small_disk: Path):
    bench = Bench(small_disk)
    bench.add()
    tried = []

    def work(work: Work, tell: Callable) -> list[Notice]:
        tried.append(work.output)
        with (work.output / "labels.nii.gz").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    with looping(Worker(bench.store, bench.settings, work)):
        until(lambda: bench.store.get("a").completed_at)
    job = bench.store.get("a")
    assert (job.status, job.error.code, len(tried)) == (Status.FAILED, "storage_full", 1)
    assert bench.left() == ["scan"]
    bench.add("b")
    Worker(bench.store, bench.settings, copy).run_once()
    assert bench.store.get("b").status is Status.SUCCEEDED
    bench.store.engine.dispose()


@pytest.mark.parametrize("error", [MemoryError(), OUT_OF_MEMORY, NotReady("The GPU is gone.")])
def test_what_another_try_may_mend_is_tried_again_and_then_given_up(bench: Bench, error: Exception):
    def work(work: Work, tell: Callable) -> list[Notice]:
        raise error

    assert bench.run(work).status is Status.QUEUED
    job = bench.run(work)
    assert (job.status, job.error.code) == (Status.FAILED, "too_many_attempts")
    assert bench.left() == ["scan"]


def test_cancel_stops_running_work_at_its_next_word(bench: Bench):
    told = []

    def work(work: Work, tell: Callable) -> list[Notice]:
        tell("liver", 0.2)
        bench.store.cancel("a")
        tell("crf", 0.6)
        told.append("went on")
        return []

    assert bench.run(work).status is Status.CANCELED
    assert told == []
    assert bench.left() == ["scan"]


def test_work_that_never_speaks_keeps_its_job_beyond_its_lease(tmp_path: Path):
    bench = Bench(tmp_path, lease_s=3.0)
    bench.add()
    taken_back = []

    def work(work: Work, tell: Callable) -> list[Notice]:
        time.sleep(6.5)  # the lease is 3 s
        taken_back.extend(bench.store.reap())
        return []

    with looping(Worker(bench.store, bench.settings, work)):
        until(lambda: bench.store.get("a").status is Status.SUCCEEDED)
    assert taken_back == []
    assert bench.store.get("a").attempt == 1
    bench.store.engine.dispose()


def test_a_worker_that_is_told_to_stop_hands_its_job_back(bench: Bench):
    started = threading.Event()

    def work(work: Work, tell: Callable) -> list[Notice]:
        while True:
            tell("liver", 0.5)
            started.set()
            time.sleep(0.01)

    with looping(Worker(bench.store, bench.settings, work)):
        assert started.wait(PATIENCE_S)
    job = bench.store.get("a")
    assert (job.status, job.lost_attempts) == (Status.QUEUED, 0)
    assert bench.left() == ["scan"]
    assert bench.run(copy).status is Status.SUCCEEDED


def test_an_attempt_that_was_overtaken_publishes_nothing(bench: Bench):
    def slow(work: Work, tell: Callable) -> list[Notice]:
        (work.output / "report.json").write_bytes(b"old")
        bench.store.reap(dead=bench.store.owners())
        Worker(bench.store, bench.settings, copy).run_once()
        return []

    job = bench.run(slow)
    assert (job.status, job.published) == (Status.SUCCEEDED, 2)
    assert bench.files.result("a", 2, "report.json").read_bytes() == b"scan of a"
    assert bench.left() == ["attempts/2/report.json", "scan"]


def test_a_worker_stopped_right_after_its_claim_harms_no_later_result(bench: Bench):
    late = bench.store.claim("late")
    bench.store.reap(dead={"late"})
    assert bench.run(copy).published == 2
    Worker(bench.store, bench.settings, copy, worker_id="late").run_job(late)  # it wakes up only now
    assert bench.store.get("a").published == 2
    assert bench.left() == ["attempts/2/report.json", "scan"]


def test_erasing_a_job_while_it_is_worked_on_leaves_no_byte(bench: Bench):
    def work(work: Work, tell: Callable) -> list[Notice]:
        tell("liver", 0.1)
        bench.store.erase("a")
        bench.files.erase("a")
        work.output.mkdir(parents=True)  # as a pipeline might
        (work.output / "report.json").write_bytes(b"too late")
        return []

    assert bench.run(work).status is Status.EXPIRED
    assert bench.left() == []
    assert not list(bench.settings.data_dir.glob("jobs/*"))
    assert not list(bench.settings.data_dir.glob("trash/*"))


def test_the_job_of_a_worker_that_died_is_run_at_once(bench: Bench):
    locks = OwnerLocks.of(bench.settings)
    with locks.holding("other"):
        bench.store.claim("other")
        assert not Worker(bench.store, bench.settings, copy).run_once()
    assert bench.run(copy).status is Status.SUCCEEDED  # no lease had to run out


def test_a_canceled_error_of_the_work_itself_is_a_cancellation(bench: Bench):
    def work(work: Work, tell: Callable) -> list[Notice]:
        raise Canceled("Enough.")

    assert bench.run(work).status is Status.CANCELED


def test_expired_results_and_orphans_are_swept_and_nothing_else(tmp_path: Path):
    bench = Bench(tmp_path, retention_days=1e-9)
    bench.add("a")
    assert bench.run(copy).status is Status.SUCCEEDED
    orphan = bench.files.create("orphan")
    (orphan / "scan").write_bytes(b"cut off")
    bench.add("waiting")
    worker = Worker(bench.store, bench.settings, copy)
    worker._keep_house()
    assert bench.store.get("a").status is Status.EXPIRED
    assert bench.left("a") == []
    assert orphan.exists()  # it may be an upload on its way
    bench.files.sweep(bench.store.has, older_than_s=-1)
    assert not orphan.exists()
    assert bench.left("waiting") == ["scan"]
    bench.store.engine.dispose()


def test_a_store_out_of_reach_does_not_end_the_worker(bench: Bench):
    calls = []

    class Flaky(Store):
        def claim(self, owner: str) -> Job | None:
            calls.append(owner)
            if len(calls) == 1:
                raise OSError(errno.EIO, "the disk stumbles")
            return super().claim(owner)

    with looping(Worker(Flaky(bench.store.engine, bench.settings), bench.settings, copy)):
        until(lambda: bench.store.get("a").status is Status.SUCCEEDED)
