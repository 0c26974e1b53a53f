"""A real service on real networks (hand-written ones that know the phantom), and a real Chromium in front of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import numpy as np
import pytest

from app.imaging.nifti import write_labels, write_volume
from tests.analytic_networks import phantom_models
from tests.browser.visits import LARGEST_BYTES, PATIENCE_S, Service, Visit, until
from training.phantom import abdomen

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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
            item.add_marker(pytest.mark.timeout(4 * PATIENCE_S))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        assert "CI" not in os.environ, "CI must install it: apt-get install chromium"
        pytest.skip("there is no chromium: apt-get install chromium")
    if "CI" not in os.environ:
        pytest.importorskip("playwright", reason="pip install playwright")
    from playwright.sync_api import sync_playwright

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
        "HOLD_FILE": str(folder / "hold"),
        "HEPASEG_MAX_UPLOAD_BYTES": str(LARGEST_BYTES),
        "PYTHONPATH": str(REPOSITORY),
    }
    running = Service(
        f"http://127.0.0.1:{port}", folder / "hold", folder / "ct.nii.gz", folder / "reference.nii.gz", phantom
    )
    running.release()
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
        return httpx.get(f"{url}/health/ready", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def visit(chromium: Browser, service: Service) -> Iterator[Visit]:
    """A new window, which must in the end have spoken to the service alone and have complained about nothing."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(1000 * PATIENCE_S)
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
