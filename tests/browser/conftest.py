"""A real service on real networks (hand-written ones that know the phantom), and a real Chromium in front of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx2 as httpx
import numpy as np
import pytest

from app.imaging.nifti import write_labels, write_volume
from tests.analytic_networks import phantom_models
from training.phantom import Phantom, abdomen

pytest.importorskip("playwright", reason="pip install playwright") if "CI" not in os.environ else None
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402 - a reason to skip comes first

T = TypeVar("T")
HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
#: As Debian's Chromium runs in a container: as root, without a GPU, calling nobody.
FLAGS = (
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@dataclass
class Service:
    """A running `hepaseg serve`, whose worker pauses as long as the test likes."""

    url: str
    pause_file: Path
    scan: Path
    reference: Path
    phantom: Phantom
    jobs: dict[str, str] = field(default_factory=dict)

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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        assert "CI" not in os.environ, "CI must install it: apt-get install chromium"
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    phantom = abdomen(seed=1, shape=(96, 80, 32), spacing_mm=(3.8, 4.0, 6.3), noise_hu=0)
    write_volume(folder / "ct.nii.gz", phantom.volume)
    shifted = np.asfortranarray(np.roll(phantom.truth.labels, 2, axis=0))
    write_labels(folder / "reference.nii.gz", shifted, phantom.truth.geometry, header_of=None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {
        "HEPASEG_MODELS_DIR": str(phantom_models(folder / "models")),
        "HEPASEG_DATA_DIR": str(folder / "data"),
        "HEPASEG_PORT": str(port),
        "HEPASEG_THREADS": "1",
        "HEPASEG_MIN_FREE_BYTES": "0",
        "SLOW_PAUSE_FILE": str(folder / "pause"),
        "PYTHONPATH": str(REPOSITORY),
    }
    running = Service(
        f"http://127.0.0.1:{port}", folder / "pause", folder / "ct.nii.gz", folder / "reference.nii.gz", phantom
    )
    running.pause(0)
    with (folder / "log").open("wb") as log:
        command = [sys.executable, str(HERE / "slow_serve.py")]
        process = subprocess.Popen(command, env={**os.environ, **given}, stdout=log, stderr=log)
    try:
        until(lambda: _is_ready(running.url) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield running
    finally:
        process.terminate()
        process.wait(timeout=30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


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


@pytest.fixture
def visit(chromium: Browser, service: Service) -> Iterator[Visit]:
    """A new window, which must in the end have spoken to the service alone and have complained about nothing."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    made = Visit(page, service.url)
    page.on("request", lambda request: made.requests.append(request.url))
    page.on("console", lambda said: said.type == "error" and made.complaints.append(said.text))
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    yield made
    context.close()
    own = (service.url, "data:", "blob:")
    assert [url for url in made.requests if not url.startswith(own)] == []
    # Chromium itself writes a line for each answer that is an error, which is what some tests are about.
    assert [text for text in made.complaints if "Failed to load resource" not in text] == []
