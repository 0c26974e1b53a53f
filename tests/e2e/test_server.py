"""The real server on a socket: what it costs, and what it does with bodies that it will not take."""

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import nibabel as nib
import numpy as np
import pytest
from processes import Yard

from app.jobs.job import Status
from tests.waiting import PATIENCE_S, until

MIB = 1024 * 1024
OPENING = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\n'
CLOSING = b"\r\n--x--\r\n"


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path, embedded_worker=False, max_upload_bytes=400 * MIB)
    yield yard
    yard.close()


def header_of(shape: tuple[int, int, int]) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([0.8, 0.8, 1.5, 1.0]), code=1)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4)


def memory_kib(pid: int, what: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def computing_s(pid: int) -> float:
    """Seconds that a process has computed."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_large_upload_costs_little_memory_and_does_not_block_the_service(yard: Yard):
    server = yard.start("slow_serve.py")
    until(lambda: yard.is_live() or None)
    shape = (512, 512, 600)  # 300 MiB
    header = header_of(shape)
    body_bytes = len(OPENING) + len(header) + 2 * int(np.prod(shape)) + len(CLOSING)
    before = memory_kib(server.pid, "VmRSS")
    slowest_s, computed_s, done = [0.0], [0.0], threading.Event()

    def ping() -> None:
        with httpx.Client() as client:
            while not done.is_set():
                started, at_work_s = time.monotonic(), computing_s(server.pid)
                assert client.get(f"{yard.url}/health/live", timeout=PATIENCE_S).status_code == 200
                slowest_s[0] = max(slowest_s[0], time.monotonic() - started)
                computed_s[0] = max(computed_s[0], computing_s(server.pid) - at_work_s)
                time.sleep(0.01)

    pinger = threading.Thread(target=ping)
    pinger.start()
    connection = http.client.HTTPConnection("127.0.0.1", yard.settings.port, timeout=60)
    connection.putrequest("POST", "/segment")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(body_bytes))
    connection.endheaders()
    connection.send(OPENING + header)
    for sent in range(300):
        connection.send(bytes(MIB))
        if sent % 100 == 0:  # nobody waits for the rest to come
            assert httpx.get(f"{yard.url}/health/live", timeout=PATIENCE_S).status_code == 200
    connection.send(CLOSING)
    response = connection.getresponse()
    assert (response.status, response.read()[:5]) == (202, b'{"id"')
    connection.close()
    done.set()
    pinger.join()
    cost_mib = (memory_kib(server.pid, "VmHWM") - before) / 1024
    print(  # noqa: T201
        f"300 MiB upload: {cost_mib:.1f} MiB of memory, slowest ping {1000 * slowest_s[0]:.0f} ms, "
        f"in which the service computed {1000 * computed_s[0]:.0f} ms"
    )
    assert cost_mib < 80
    # Not by the clock, which goes on while a busy machine does something else.
    assert computed_s[0] < 0.5


def test_a_stop_in_order_takes_in_what_is_being_sent_and_sends_away_who_only_waits(tmp_path: Path):
    yard = Yard(tmp_path, embedded_worker=False, stop_s=PATIENCE_S)
    try:
        server = yard.start("slow_serve.py")
        until(lambda: yard.is_live() or None)
        waiting = yard.send()
        body = OPENING + yard.scan + CLOSING
        connection = http.client.HTTPConnection("127.0.0.1", yard.settings.port, timeout=60)
        with httpx.stream("GET", f"{yard.url}/jobs/{waiting}/events", timeout=PATIENCE_S) as events:
            lines = events.iter_lines()
            assert next(lines).startswith("event: ")
            connection.putrequest("POST", "/segment")
            connection.putheader("Content-Type", "multipart/form-data; boundary=x")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:200])
            until(lambda: len(list(yard.settings.data_dir.glob("jobs/*"))) == 2 or None)
            server.terminate()
            assert "event: completed" not in list(lines)
        connection.send(body[200:])
        response = connection.getresponse()
        assert response.status == 202
        job_id = json.loads(response.read())["id"]
        connection.close()
        assert server.wait(PATIENCE_S) == 0
        assert yard.files.scan(job_id).read_bytes() == yard.scan
        assert yard.store.get(job_id).status is Status.QUEUED
    finally:
        yard.close()


def test_a_body_that_announces_too_much_is_refused_with_no_byte_of_it_sent(yard: Yard):
    yard.start("slow_serve.py")
    until(lambda: yard.is_live() or None)
    with socket.create_connection(("127.0.0.1", yard.settings.port), timeout=60) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = ""
        while not answer.endswith("}"):
            answer += connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert '"code":"too_large"' in answer
    assert list((yard.settings.data_dir / "jobs").iterdir()) == []


def test_a_connection_that_breaks_in_mid_upload_leaves_nothing(yard: Yard):
    yard.start("slow_serve.py")
    until(lambda: yard.is_live() or None)
    with socket.create_connection(("127.0.0.1", yard.settings.port), timeout=60) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 9999999\r\n\r\n" + OPENING + bytes(3 * MIB)
        )
        until(lambda: list(yard.settings.data_dir.glob("jobs/*/scan")))
    until(lambda: not list((yard.settings.data_dir / "jobs").iterdir()) or None)
    assert yard.is_live()


def test_a_chunked_body_that_grows_too_long_is_refused_on_its_way(tmp_path: Path):
    yard = Yard(tmp_path, embedded_worker=False, max_upload_bytes=2 * MIB)
    try:
        yard.start("slow_serve.py")
        until(lambda: yard.is_live() or None)

        def chunks() -> Iterator[bytes]:
            yield OPENING
            for _ in range(8):
                yield bytes(MIB)

        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        response = httpx.post(f"{yard.url}/segment", content=chunks(), headers=kind, timeout=60)
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
        assert list((yard.settings.data_dir / "jobs").iterdir()) == []
    finally:
        yard.close()
