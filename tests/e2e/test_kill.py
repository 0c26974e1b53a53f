"""Real processes, really killed: no job is lost, none is published twice or by halves."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from processes import Yard, lives

from app.jobs.job import Status
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    yield yard
    yard.close()


def test_a_worker_killed_in_every_stage_loses_no_job(yard: Yard):
    yard.add("job")
    for attempt, stage in enumerate(tiny.STAGES, start=1):
        worker = yard.start("slow_worker.py")
        until(lambda stage=stage, attempt=attempt: yard.seen(stage, attempt))
        assert yard.store.get("job").published is None
        worker.kill()
        worker.wait()
    yard.start("slow_worker.py", pause_s=0)
    # The lease of a minute has not run out: the kernel told that the workers were dead.
    job = yard.ended("job")
    assert (job.attempt, job.lost_attempts) == (len(tiny.STAGES) + 1, len(tiny.STAGES))
    yard.assert_published_whole(job)


def test_a_service_killed_with_its_worker_finishes_the_job_after_a_restart(yard: Yard):
    first = yard.start("slow_serve.py", pause_s=0.5)
    until(lambda: yard.is_live() or None)
    name = yard.send()
    worker = until(lambda: yard.seen("liver", 1)).pid
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    until(lambda: not lives(worker) or None)  # it went with the service
    yard.start("slow_serve.py", pause_s=0.01)
    job = yard.ended(name)
    assert job.attempt == 2
    yard.assert_published_whole(job)


def test_the_service_starts_its_worker_again_and_answers_meanwhile(yard: Yard):
    yard.start("slow_serve.py", pause_s=0.2)
    until(lambda: yard.is_live() or None)
    name = yard.send()
    worker = until(lambda: yard.seen("crf", 1)).pid
    os.kill(worker, signal.SIGKILL)
    assert yard.is_live()
    job = yard.ended(name)
    assert job.attempt == 2
    assert {entry.pid for entry in yard.journal()} != {worker}
    yard.assert_published_whole(job)


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path, lease_s=1.0)
    yield yard
    yard.close()


@pytest.mark.parametrize("stage", ["liver", "write"])
def test_a_worker_stopped_for_longer_than_its_lease_cannot_publish(impatient: Yard, stage: str):
    yard = impatient
    yard.add("job")
    sleeper = yard.start("slow_worker.py", pause_s=0.3)
    until(lambda: yard.seen(stage, 1))
    yard.freeze(sleeper)
    yard.start("slow_worker.py", pause_s=0)
    job = yard.ended("job")
    assert job.published == 2
    os.kill(sleeper.pid, signal.SIGCONT)
    until(lambda: '"status": "lost"' in yard.log.read_text() or None)
    assert yard.store.get("job") == job
    yard.assert_published_whole(job)
    assert lives(sleeper.pid)  # and it works on


def test_several_workers_share_the_jobs_without_doing_any_twice(yard: Yard):
    names = [f"job{n}" for n in range(30)]
    workers = [yard.start("slow_worker.py", pause_s=0.002) for _ in range(3)]
    until(lambda: yard.log.read_text().count("worker started") == len(workers))
    for name in names:
        yard.add(name)
    for name in names:
        assert yard.ended(name).attempt == 1
    entered = Counter((entry.job, entry.stage) for entry in yard.journal())
    assert entered == Counter({(name, stage): 1 for name in names for stage in tiny.STAGES})
    assert len(workers) >= len({entry.pid for entry in yard.journal()}) > 1


@pytest.mark.parametrize("script", ["slow_worker.py", "slow_serve.py"])
def test_a_stop_in_order_hands_the_running_job_back(yard: Yard, script: str):
    process = yard.start(script, pause_s=1.0)
    yard.add("job")
    worker = until(lambda: yard.seen("liver", 1)).pid
    process.terminate()
    assert process.wait(PATIENCE_S) == 0
    until(lambda: not lives(worker) or None)
    job = yard.store.get("job")
    assert (job.status, job.lost_attempts, job.stage) == (Status.QUEUED, 0, None)
    assert not list(yard.files.scan("job").parent.glob("attempts/*"))
    yard.start("slow_worker.py", pause_s=0)
    yard.assert_published_whole(yard.ended("job"))


def test_a_service_with_broken_networks_ends_and_says_why(yard: Yard):
    why = "liver.onnx: expected sha256 aa, found bb."
    process = yard.start("slow_serve.py", SLOW_BROKEN=why)
    assert process.wait(PATIENCE_S) == 1
    assert yard.log.read_text().endswith(f"{why}\n")


def test_a_worker_killed_at_random_moments_loses_no_job_of_many(yard: Yard):
    names = [f"job{n}" for n in range(12)]
    for name in names:
        yard.add(name)
    for kill in range(4):
        worker = yard.start("slow_worker.py", pause_s=0.01)
        until(lambda worker=worker: any(entry.pid == worker.pid for entry in yard.journal()))
        time.sleep(0.05 + 0.07 * kill)
        worker.kill()
        worker.wait()
    yard.start("slow_worker.py", pause_s=0)
    for name in names:
        yard.assert_published_whole(yard.ended(name))


def test_a_worker_that_stands_still_is_replaced_so_that_it_can_hold_nobody_up(impatient: Yard):
    yard = impatient
    yard.start("slow_serve.py", pause_s=0.1)
    until(lambda: yard.is_live() or None)
    name = yard.send()
    sleeper = until(lambda: yard.seen("lesion", 1)).pid
    os.kill(sleeper, signal.SIGSTOP)
    job = yard.ended(name)
    assert not lives(sleeper)
    assert job.attempt == 2
    yard.assert_published_whole(job)
