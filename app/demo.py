"""`hepaseg demo`: the main job as any client does it, over HTTP, against a service started for the occasion."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from rich.console import Console

from app.console import progress_bar, show_report
from app.errors import HepasegError, NotReady
from app.jobs.results import RECEIPT_NAME, RESULT_NAMES
from app.report import Report

#: How long the service may take to load its networks before the demo gives up.
START_TIMEOUT_S = 180.0
_TERMINAL = {"succeeded", "failed", "canceled", "expired"}


def run_demo(ct: Path, reference: Path | None, output: Path) -> int:
    """Send a scan to a service on loopback and save and show what comes back; returns the exit status."""
    console = Console()
    output.mkdir(parents=True, exist_ok=True)
    with (
        _service(output / "service", output / "service.log") as url,
        httpx.Client(base_url=url, timeout=60.0) as client,
    ):
        console.print(f"Service at {url} (log: {output / 'service.log'})", soft_wrap=True)
        job = _submit(client, ct, reference)
        console.print(f"POST /segment → 202, job {job['id']}")
        job = _watch(client, job, console)
        if job["status"] != "succeeded":
            error = job["error"] or {"title": job["status"], "detail": "", "code": job["status"]}
            told = f"{error['title']}: {error['detail']} [{error['code']}]"
            console.print(told, style="red", markup=False, soft_wrap=True)
            return 1
        saved = _download(client, job, output)
        show_report(console, Report.model_validate(job["report"]))
        for path in saved:
            console.print(f"  {path}", soft_wrap=True)
    console.print("Research use only. Not a medical device.")
    return 0


@contextmanager
def _service(data_dir: Path, log_path: Path) -> Iterator[str]:
    """`hepaseg serve` on a free loopback port, ready for work; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"HEPASEG_DATA_DIR": str(data_dir.resolve())}
    command = [sys.executable, "-m", "app", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log_path)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotReady(f"The service stopped while starting; {log_path} says why.")
        try:
            if httpx.get(f"{url}/health/ready", timeout=5.0).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise NotReady(f"The service was not ready after {START_TIMEOUT_S:.0f} s; {log_path} says why.")


def _submit(client: httpx.Client, ct: Path, reference: Path | None) -> dict[str, Any]:
    with ct.open("rb") as scan:
        files: dict[str, Any] = {"file": (ct.name, scan)}
        if reference is not None:
            files["reference"] = (reference.name, reference.read_bytes())
        response = client.post("/segment", files=files)
    return _body(response)


def _watch(client: httpx.Client, job: dict[str, Any], console: Console) -> dict[str, Any]:
    with progress_bar(console, f"job {job['id'][:8]}") as tell:
        while job["status"] not in _TERMINAL:
            time.sleep(0.1)
            job = _body(client.get(job["links"]["self"]))
            tell(job["stage"] or job["status"], job["progress"])
    return job


def _download(client: httpx.Client, job: dict[str, Any], output: Path) -> list[Path]:
    saved = []
    for name in (*RESULT_NAMES, RECEIPT_NAME, "sheet.html"):
        response = client.get(f"{job['links']['self']}/{name}")
        _raise_for_problem(response)
        (output / name).write_bytes(response.content)
        saved.append(output / name)
    return saved


def _body(response: httpx.Response) -> dict[str, Any]:
    _raise_for_problem(response)
    body: dict[str, Any] = response.json()
    return body


def _raise_for_problem(response: httpx.Response) -> None:
    if response.is_error:
        problem = response.json()
        error = HepasegError(problem["detail"])
        error.title, error.code = problem["title"], problem["code"]
        raise error
