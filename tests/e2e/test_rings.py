"""Workers under Celery with a real Redis and a real RabbitMQ: a ring that is lost loses no job."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from processes import Yard, lives

from app.jobs.bell import CeleryBell, NoBell, bell_of
from app.jobs.job import Status
from tests.services import RabbitMQ, Redis
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.services

NEVER_S = 3600.0


@pytest.fixture
def yard(tmp_path: Path, broker: Redis | RabbitMQ) -> Iterator[Yard]:
    """Workers look by themselves so rarely that rings alone wake them."""
    with yard_on(tmp_path, broker.url, look_s=NEVER_S) as yard:
        yield yard


@pytest.fixture
def watchful(tmp_path: Path, redis: Redis) -> Iterator[Yard]:
    """Workers look by themselves too."""
    with yard_on(tmp_path, redis.url, look_s=0.3) as yard:
        yield yard


def yard_on(folder: Path, url: str, **given: object) -> contextlib.closing[Yard]:
    return contextlib.closing(Yard(folder, broker_url=url, **given))


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Redis | RabbitMQ]:
    """A broker for this test alone, which may kill it."""
    server = getattr(request, "param", Redis)()
    try:
        server.start()
        yield server
    finally:
        server.close()


def start_worker(yard: Yard, **given: object):
    before = yard.log.read_text().count("worker started") if yard.log.exists() else 0
    process = yard.start("slow_worker.py", **given)
    until(lambda: yard.log.read_text().count("worker started") > before or None)
    return process


def ring(yard: Yard, *names: str) -> None:
    bell = bell_of(yard.settings)
    for name in names:
        bell.ring(name)


def test_a_ring_wakes_a_worker_which_takes_the_most_urgent_job(yard: Yard):
    start_worker(yard, pause_s=0)
    for name in ("a", "b", "c"):
        yard.add(name)
    ring(yard, "c")
    for name in ("a", "b", "c"):
        yard.assert_published_whole(yard.ended(name))
    ring(yard, "a", "b", "never heard of")  # nothing is left to do, and nothing is done twice
    yard.add("d")
    ring(yard, "d")
    assert yard.ended("d").attempt == 1
    assert Counter(entry.job for entry in yard.journal() if entry.stage == "read") == Counter("abcd")


def test_a_stop_in_order_hands_the_running_job_back_and_leaves_no_process(yard: Yard):
    worker = start_worker(yard, pause_s=1.0)
    yard.add("job")
    ring(yard, "job")
    child = until(lambda: yard.seen("liver", 1)).pid
    assert child != worker.pid
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    assert not lives(child)
    job = yard.store.get("job")
    assert (job.status, job.lost_attempts) == (Status.QUEUED, 0)


@pytest.mark.parametrize("whole", [False, True], ids=["child", "group"])
def test_a_killed_worker_loses_no_job(watchful: Yard, whole: bool):
    yard = watchful
    worker = start_worker(yard, pause_s=0.2)
    yard.add("job")
    ring(yard, "job")
    child = until(lambda: yard.seen("lesion", 1)).pid
    if whole:
        worker.kill()
        worker.wait()
        until(lambda: not lives(child) or None)  # it went with its parent
        start_worker(yard, pause_s=0)
    else:
        os.kill(child, signal.SIGKILL)
    job = yard.ended("job")
    assert (job.attempt, job.lost_attempts) == (2, 1)
    yard.assert_published_whole(job)


def test_a_broker_that_forgets_everything_and_goes_away_loses_no_job(tmp_path: Path, server: Redis):
    with yard_on(tmp_path, server.url, look_s=0.3) as yard:
        start_worker(yard, pause_s=0.05)
        names = [f"job{n}" for n in range(6)]
        for name in names:
            yard.add(name)
        ring(yard, *names)
        until(lambda: yard.seen("read", 1))
        server.flush()
        server.kill()
        bell_of(yard.settings).ring("job0")  # says so in the log, and goes on
        for name in names:
            yard.ended(name)
        yard.add("late")  # its worker is idle, and nobody can ring
        for name in [*names, "late"]:
            job = yard.ended(name)
            assert job.attempt == 1
            yard.assert_published_whole(job)


@pytest.mark.parametrize("server", [Redis, RabbitMQ], indirect=True)
def test_a_worker_with_rings_in_hand_hears_again_when_the_broker_is_back(tmp_path: Path, server: Redis | RabbitMQ):
    with yard_on(tmp_path, server.url, look_s=NEVER_S) as yard:
        start_worker(yard, pause_s=0.3)
        yard.add("first")
        ring(yard, *["first"] * 3)
        until(lambda: yard.seen("liver", 1))
        server.kill()
        yard.ended("first")
        server.start()
        yard.add("second")
        ring(yard, "second")
        assert yard.ended("second").attempt == 1


def test_the_service_rings_when_it_has_taken_a_scan_in(yard: Yard):
    yard.start("slow_serve.py", pause_s=0, HEPASEG_EMBEDDED_WORKER=False)
    start_worker(yard, pause_s=0)
    until(lambda: yard.is_live() or None)
    yard.assert_published_whole(yard.ended(yard.send()))


def test_a_worker_with_broken_networks_ends_and_says_so(watchful: Yard):
    process = watchful.start("slow_worker.py", SLOW_BROKEN="liver.onnx: expected sha256 aa, found bb.")
    assert process.wait(PATIENCE_S) == 78
    assert "expected sha256 aa" in watchful.log.read_text()


def test_stages_are_entered_in_the_child_and_only_there(watchful: Yard):
    worker = start_worker(watchful, pause_s=0)
    watchful.add("job")
    watchful.ended("job")
    entries = watchful.journal()
    assert [entry.stage for entry in entries] == list(tiny.STAGES)
    assert worker.pid not in {entry.pid for entry in entries}


def test_without_a_broker_there_is_no_bell(tmp_path: Path, yard: Yard):
    assert isinstance(bell_of(yard.settings), CeleryBell)
    assert isinstance(bell_of(yard.settings.model_copy(update={"broker_url": ""})), NoBell)
