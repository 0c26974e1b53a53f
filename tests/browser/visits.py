"""The service under test, and a visit to its page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx2 as httpx

from training.phantom import Phantom

if TYPE_CHECKING:
    from playwright.sync_api import Page

T = TypeVar("T")

#: How long to wait for what must come; a browser that draws in software beside other work is slow.
PATIENCE_S = 240.0
#: The largest upload that the service under test takes.
LARGEST_BYTES = 40_000_000


@dataclass
class Service:
    """A running `hepaseg serve`, whose worker waits in a stage as long as the test likes."""

    url: str
    hold_file: Path
    scan: Path
    reference: Path
    phantom: Phantom

    def hold(self, stage: str) -> None:
        """Let every job wait in this stage."""
        part = self.hold_file.with_suffix(".part")
        part.write_text(stage)
        part.replace(self.hold_file)

    def release(self) -> None:
        """Let jobs run to their end."""
        self.hold("")

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=PATIENCE_S)

    def erase(self, job_id: str) -> httpx.Response:
        return httpx.delete(f"{self.url}/jobs/{job_id}", timeout=PATIENCE_S)

    def send(self, reference: Path | None = None, *, scan: Path | None = None) -> dict:
        """A job that has ended, sent without the browser; of the phantom, or of another scan."""
        files = {"file": ("ct", (scan or self.scan).read_bytes())}
        if reference is not None:
            files["reference"] = ("reference", reference.read_bytes())
        self.release()
        answer = httpx.post(f"{self.url}/segment", files=files, headers={"Prefer": "wait=60"}, timeout=PATIENCE_S)
        assert answer.status_code in {200, 202}, answer.text
        job = until(lambda: self._ended(answer.json()["id"]))
        assert job["status"] == "succeeded", job
        return job

    def _ended(self, job_id: str) -> dict | None:
        job = self.get(f"/jobs/{job_id}").json()
        return None if job["status"] in {"queued", "running"} else job


def until(condition: Callable[[], T | None], seconds: float = PATIENCE_S) -> T:
    """What `condition` gives once it gives something; `wait_for_function` would need eval, which the policy forbids."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


@dataclass
class Visit:
    """A page, and what it asked for and complained about."""

    page: Page
    base: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(self.base + path)

    def open_result(self, job: dict) -> None:
        """The result of a job, with its pictures drawn."""
        self.open(f"/view/{job['id']}")
        self.wait_for_pictures()

    def wait_for_pictures(self) -> None:
        until(lambda: self.page.locator(".readout[data-ready=yes]").count())
        self.settle()

    def settle(self) -> None:
        """Let what was asked for be drawn: two frames."""
        self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 150))))"
        )

    def asked(self, ending: str) -> int:
        """How often the page has asked for an address with this ending."""
        self.page.evaluate("0")  # what has happened is heard of when the page is spoken to
        return sum(url.endswith(ending) for url in self.requests)

    def crosshair_mm(self) -> list[float]:
        return [float(x) for x in self.page.locator(".readout").get_attribute("data-mm").split(",")]
