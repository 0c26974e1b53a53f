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


@dataclass
class Service:
    """A running `hepaseg serve`, whose worker pauses as long as the test likes."""

    url: str
    pause_file: Path
    scan: Path
    reference: Path
    phantom: Phantom

    def pause(self, seconds: float) -> None:
        self.pause_file.write_text(str(seconds))

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)

    def send(self, reference: Path | None = None) -> dict:
        """A job that has ended, sent without the browser."""
        files = {"file": ("ct", self.scan.read_bytes())}
        if reference is not None:
            files["reference"] = ("reference", reference.read_bytes())
        self.pause(0)
        answer = httpx.post(f"{self.url}/segment", files=files, headers={"Prefer": "wait=60"}, timeout=90)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "succeeded", answer.text
        return answer.json()


def until(condition: Callable[[], T | None], seconds: float = 60.0) -> T:
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
        until(lambda: self.page.locator(".readout[data-ready=yes]").count(), 90)
        self.settle()

    def settle(self) -> None:
        """Let what was asked for be drawn: two frames."""
        self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 150))))"
        )

    def crosshair_mm(self) -> list[float]:
        return [float(x) for x in self.page.locator(".readout").get_attribute("data-mm").split(",")]
