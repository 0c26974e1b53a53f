"""Our ways through for `pipeline.py`: in process, by the command, and through the service."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from memory import peak_gb

Row = dict[str, float]


def in_process(scan: Path) -> Row:
    """The pipeline in this process, networks loaded before the clock starts, files written."""
    from app.inference.cascade import Cascade
    from app.inference.manifest import load_networks
    from app.pipeline import Request, run
    from app.settings import Settings

    settings = Settings()
    start = time.perf_counter()
    cascade = Cascade(load_networks(settings.models_dir, settings.runtime()), settings.runtime())
    load_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        report = run(Request(scan, None, Path(folder)), cascade)
    return {"load": load_s, **report.timings_s.model_dump()}


def by_command(scan: Path) -> Row:
    """`hepaseg segment`, from the shell's point of view: imports and networks included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "app", "segment", "-q", str(scan), "-o", folder], check=True)
        total_s = time.perf_counter() - start
    return {"total": total_s, "peak_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6}


def through_the_service(scan: Path) -> Row:
    """Upload, wait, done. total: from claim to finish as the job says; pipeline: what its report says of that."""
    import httpx2 as httpx

    from app.demo import _service

    with tempfile.TemporaryDirectory() as folder, _service(Path(folder), Path(folder) / "log") as url:
        worker = _worker_pid()
        start = time.perf_counter()
        with scan.open("rb") as file:
            job = httpx.post(f"{url}/segment", files={"file": (scan.name, file)}, timeout=120).json()
        upload_s = time.perf_counter() - start
        while job["status"] in ("queued", "running"):
            time.sleep(0.02)
            job = httpx.get(f"{url}{job['links']['self']}").json()
        if job["status"] != "succeeded":
            raise SystemExit(f"the service did not segment the scan: {job['error']}")
        peak = peak_gb(worker)
    return {
        "total": _apart_s(job["created_at"], job["completed_at"]),
        "pipeline": job["report"]["timings_s"]["total"],
        "upload_mb_s": scan.stat().st_size / 1e6 / upload_s,
        "peak_gb": peak,
    }


def start_up() -> Row:
    """Seconds of `hepaseg --help`, and what importing the command takes of them."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "app", "--help"], check=True, stdout=subprocess.DEVNULL)
    return {"help": time.perf_counter() - start}


def _apart_s(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def _worker_pid() -> int:
    """The embedded worker that a service of this process started."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], check=True, capture_output=True, text=True).stdout
    rows: list[tuple[int, int, str]] = []
    for line in listed.splitlines()[1:]:
        pid, parent, command = line.split(None, 2)
        rows.append((int(pid), int(parent), command))
    found = [pid for pid, _, command in rows if "app.jobs.worker" in command and _descends(pid, rows)]
    return found[0]


def _descends(pid: int, rows: list[tuple[int, int, str]]) -> bool:
    import os

    parents = {child: parent for child, parent, _ in rows}
    while pid in parents and pid != os.getpid():
        pid = parents[pid]
    return pid == os.getpid()


def as_json(row: dict[str, Any]) -> str:
    """One line for the parent process, with the peak of this one where no other was measured."""
    return json.dumps({"peak_gb": peak_gb()} | row)
