"""The application in this process, with a real worker in a thread, and the shape of its errors."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import tiny
from starlette.testclient import TestClient

from app.api.parts import Parts
from app.jobs.registry import WorkerState
from app.jobs.worker import Worker
from app.main import create_app
from app.settings import Settings
from tests.waiting import PATIENCE_S


class Service:
    """An application and, if asked for, a worker in a thread."""

    def __init__(self, folder: Path, **given: object) -> None:
        self.settings = Settings(data_dir=folder, poll_s=0.02, min_free_bytes=0, **given)
        self.parts = Parts.open(self.settings)
        self.client = TestClient(create_app(self.settings, self.parts), raise_server_exceptions=False)
        self.worker: Worker | None = None

    def start_worker(self, run=None) -> None:
        own = partial(tiny.run, form=self.settings.dicom_form())
        self.worker = Worker(self.parts.store, self.settings, run or own)
        self.parts.registry.say(self.worker.id, WorkerState.READY, models=tiny.CARDS)
        self._thread = threading.Thread(target=self.worker.loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop.set()
            self._thread.join(PATIENCE_S)
        self.client.close()
        self.parts.store.engine.dispose()

    def send(self, scan: bytes, reference: bytes | None = None, headers: dict | None = None, **fields: str):
        files = {"file": ("Doe^John.nii.gz", scan)}
        if reference is not None:
            files["reference"] = ("ref.nii.gz", reference)
        return self.client.post("/segment", files=files, data=fields, headers=headers or {})

    def ended(self, job: dict) -> dict:
        deadline = time.monotonic() + PATIENCE_S
        while job["status"] in ("queued", "running"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
            job = self.client.get(job["links"]["self"]).json()
        return job

    def bytes_on_disk(self) -> list[Path]:
        return list((self.settings.data_dir / "jobs").rglob("*"))


def assert_problem(response, status: int, code: str) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code"}
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:hepaseg:problem:{code}"
    assert problem["detail"]
    return problem
