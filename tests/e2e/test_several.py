"""Several api processes and several workers on one database, for real."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
import tiny
from processes import Yard

from app.jobs.job import Status
from app.jobs.waiting import counts
from tests.services import free_port
from tests.waiting import until

JOBS = 500


@pytest.fixture
def yard(tmp_path: Path, database_url: str) -> Iterator[Yard]:
    yard = Yard(tmp_path, database_url=database_url, embedded_worker=False, queue_limit=JOBS, log_level="warning")
    yield yard
    yard.close()


@pytest.mark.slow
def test_two_apis_and_four_workers_do_every_job_once(yard: Yard):
    ports = [yard.settings.port, free_port()]
    for port in ports:
        yard.start("slow_serve.py", HEPASEG_PORT=port)
    for _ in range(4):
        yard.start("slow_worker.py", pause_s=0)
    for port in ports:
        until(lambda port=port: yard.is_live(port) or None)
    until(lambda: "hepaseg_workers_ready 4" in httpx.get(f"{yard.url}/metrics", timeout=60).text)
    with ThreadPoolExecutor(4) as senders:
        names = list(senders.map(yard.send, ports * (JOBS // 2)))
    until(lambda: counts(yard.store)[Status.SUCCEEDED] == JOBS or None, 600)
    jobs = [yard.store.get(name) for name in names]
    assert {(job.status, job.attempt, job.lost_attempts) for job in jobs} == {(Status.SUCCEEDED, 1, 0)}
    entered = Counter((entry.job, entry.stage) for entry in yard.journal())
    assert entered == Counter({(name, stage): 1 for name in names for stage in tiny.STAGES})
    assert len({entry.pid for entry in yard.journal()}) == 4
    for job in jobs[::50]:
        yard.assert_published_whole(job)
