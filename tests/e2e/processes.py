"""Real processes for the tests that kill them, all of them ended when the test ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import tiny

from app.jobs.job import Job, Status
from app.jobs.results import RESULT_NAMES, JobFiles
from app.jobs.store import Order, Store
from app.settings import Settings
from tests.waiting import until

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """A line of the journal: a worker entered a stage."""

    pid: int
    job: str
    attempt: int
    stage: str


class Yard:
    """A data folder and the processes on it."""

    def __init__(self, folder: Path, **given: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        plain = {"lease_s": 60.0, "poll_s": 0.05, "min_free_bytes": 0, "max_attempts": 20}
        self.settings = Settings(data_dir=folder / "data", port=port, **{**plain, **given})
        self.url = f"http://127.0.0.1:{port}"
        self.store = Store.open(self.settings)
        self.files = JobFiles(self.settings.data_dir)
        self.scan = tiny.save_scan(folder / "ct.nii.gz").read_bytes()
        self.log = folder / "log"
        self._journal = folder / "journal"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, pause_s: float = 0.2, **environment: str) -> subprocess.Popen[bytes]:
        """Run a script of this folder in a process group of its own."""
        environment = {name: str(value) for name, value in environment.items()}
        given = {"SLOW_JOURNAL": str(self._journal), "SLOW_PAUSE_S": str(pause_s), **environment}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(HERE / script)],
                env={**os.environ, **self.settings.environment(), **given},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End everything that was started, by its own id."""
        for process in self._started:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()
        self.store.engine.dispose()

    def freeze(self, process: subprocess.Popen[bytes]) -> None:
        """Stop a process, but not in a transaction: SQLite has everybody wait for that to end."""
        os.kill(process.pid, signal.SIGSTOP)
        while self._is_locked():
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.01)
            os.kill(process.pid, signal.SIGSTOP)

    def _is_locked(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.settings.data_dir / "hepaseg.sqlite", timeout=0.1)) as probe:
            try:
                probe.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    def add(self, name: str) -> None:
        """Queue the scan without HTTP."""
        (self.files.create(name) / "scan").write_bytes(self.scan)
        self.store.add(Order(name))

    def send(self, port: int | None = None) -> str:
        """Queue the scan by HTTP; gives the job's id."""
        url = f"http://127.0.0.1:{port}" if port else self.url
        response = httpx.post(f"{url}/segment", files={"file": ("ct.nii.gz", self.scan)}, timeout=60)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def journal(self) -> list[Entry]:
        """Which worker entered which stage, in order."""
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        return [Entry(int(pid), job, int(attempt), stage) for pid, job, attempt, stage in map(str.split, lines)]

    def seen(self, stage: str, attempt: int) -> Entry | None:
        """The entry of that attempt into that stage."""
        found = [entry for entry in self.journal() if (entry.stage, entry.attempt) == (stage, attempt)]
        return found[0] if found else None

    def ended(self, name: str) -> Job:
        """The job, once it has ended."""
        return until(lambda: (job := self.store.get(name)).completed_at and job)

    def is_live(self, port: int | None = None) -> bool:
        """Whether HTTP answers."""
        try:
            return httpx.get(f"http://127.0.0.1:{port or self.settings.port}/health/live", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def assert_published_whole(self, job: Job) -> None:
        """One attempt, and all its files, equal to what an undisturbed run gives."""
        assert job.status is Status.SUCCEEDED
        attempts = self.files.scan(job.id).parent / "attempts"
        assert [path.name for path in attempts.iterdir()] == [str(job.published)]
        published = attempts / str(job.published)
        assert sorted(path.name for path in published.iterdir()) == sorted(RESULT_NAMES)
        undisturbed = self.files.root / f"undisturbed-{job.id}"
        undisturbed.mkdir()
        tiny.run(tiny.Work(self.files.scan(job.id), None, undisturbed), tiny.in_silence)
        for name in RESULT_NAMES:
            assert (published / name).read_bytes() == (undisturbed / name).read_bytes(), name


def lives(pid: int) -> bool:
    """Whether a process runs (and is no zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
