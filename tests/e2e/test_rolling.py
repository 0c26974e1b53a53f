"""A new version comes: api processes and workers are stopped in order one after the other while scans come in."""

import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from processes import Yard

from app.jobs.job import Status
from app.jobs.waiting import counts
from tests.services import Postgres, RabbitMQ, Redis, free_port
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.services, pytest.mark.slow]


class Sender:
    """Somebody who sends scan after scan, each again under its key where no answer came, as a proxy's client would."""

    def __init__(self, yard: Yard, ports: list[int]) -> None:
        self.ids: dict[str, str] = {}
        self.refused: list[str] = []
        self.stop = threading.Event()
        self._yard, self._ports = yard, ports
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Sender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(PATIENCE_S)

    def _send(self) -> None:
        while not self.stop.is_set():
            key = secrets.token_hex(8)
            self.stop.wait(0.3)
            while key not in self.ids and not self.refused:
                self._ports.reverse()
                self._try(self._ports[0], key)

    def _try(self, port: int, key: str) -> None:
        files = {"file": ("ct.nii.gz", self._yard.scan)}
        headers = {"Idempotency-Key": key}
        try:
            answer = httpx.post(f"http://127.0.0.1:{port}/segment", files=files, headers=headers, timeout=PATIENCE_S)
        except httpx.TransportError:
            return
        if answer.status_code == 202:
            self.ids[key] = answer.json()["id"]
        else:
            self.refused.append(answer.text)


@pytest.fixture
def yard(tmp_path: Path, postgres: Postgres, broker: Redis | RabbitMQ) -> Iterator[Yard]:
    where = {"database_url": postgres.database(), "broker_url": broker.url}
    yard = Yard(tmp_path, embedded_worker=False, queue_limit=10_000, look_s=0.5, stop_s=PATIENCE_S, **where)
    yield yard
    yard.close()


def test_a_rolling_restart_of_apis_and_workers_drops_nothing(yard: Yard):
    ports = [yard.settings.port, free_port()]

    def serve(port: int) -> Callable[[], subprocess.Popen[bytes]]:
        return lambda: yard.start("slow_serve.py", HEPASEG_PORT=str(port))

    def work() -> subprocess.Popen[bytes]:
        # Slower than the senders: whoever is stopped shall be at work.
        return yard.start("slow_worker.py", pause_s=0.12)

    starts = [serve(ports[0]), serve(ports[1]), work, work]
    running = [start() for start in starts]

    def all_up() -> bool:
        lists = yard.is_live(ports[0]) and yard.is_live(ports[1])
        return lists and "hepaseg_workers_ready 2" in httpx.get(f"{yard.url}/metrics", timeout=60).text

    until(all_up)
    with Sender(yard, ports.copy()) as one, Sender(yard, ports.copy()) as other:
        for n, start in enumerate(starts):
            before = len(yard.journal())
            until(lambda before=before: len(yard.journal()) > before + 20)  # well at work
            running[n].terminate()
            assert running[n].wait(PATIENCE_S) == 0
            running[n] = start()
            until(all_up)
    assert one.refused + other.refused == []
    ids = list((one.ids | other.ids).values())
    until(lambda: counts(yard.store)[Status.SUCCEEDED] == len(ids), 600)
    jobs = [yard.store.get(name) for name in ids]
    assert len(set(ids)) == sum(counts(yard.store).values())
    assert {(job.status, job.lost_attempts) for job in jobs} == {(Status.SUCCEEDED, 0)}
    assert max(job.attempt for job in jobs) > 1  # some were handed back
    for job in jobs[:: len(jobs) // 10]:
        yard.assert_published_whole(job)
