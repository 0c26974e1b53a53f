"""A series of a DICOMweb server: fetched, segmented, stored there; and a server that does not do as it should."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
import tiny
from pydicom import dcmread
from service import Service, assert_problem

from app.dicom.outbox import Outbox
from tests.dicom_files import MARKED_WORDS, MARKS, packed, series_of
from tests.waiting import until

STUDY, SERIES = MARKS["StudyInstanceUID"], MARKS["SeriesInstanceUID"]
NAMED = {"dicomweb": {"study": STUDY, "series": SERIES}}


class Server(ThreadingHTTPServer):
    """A DICOMweb server with one series; `wado` and `stow` change how it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/dicom-web"
        parts = [b"--B\r\nContent-Type: application/dicom\r\n\r\n" + packed(each) for each in series_of(tiny.volume())]
        self.series = b"\r\n".join([*parts, b"--B--\r\n"])
        self.wado = (200, 'multipart/related; type="application/dicom"; boundary=B', self.series)
        self.stow: tuple[int, object] | None = None
        self.called: list[str] = []
        self.stored: list = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.called.append(self.path)
        self.answer(*self.server.wado)

    def do_POST(self) -> None:
        self.server.called.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        dataset = dcmread(BytesIO(body.partition(b"\r\n\r\n")[2]))
        item = {"00081155": {"vr": "UI", "Value": [dataset.SOPInstanceUID]}}
        status, said = self.server.stow or (200, {"00081199": {"vr": "SQ", "Value": [item]}})
        if self.server.stow is None:
            self.server.stored.append(dataset)
        self.answer(status, "application/dicom+json", said if isinstance(said, bytes) else json.dumps(said).encode())

    def answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if 300 <= status < 400:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "data", dicomweb_url=server.url, max_upload_bytes=2 * len(server.series))
    service.start_worker()
    yield service
    service.stop()


def asked(site: Service, body: object = NAMED, **headers: str):
    return site.client.post("/segment", json=body, headers=headers)


def outbox(site: Service) -> Outbox:
    return Outbox(site.settings, site.parts.store, site.parts.files)


def delivered(site: Service, job: dict) -> list[tuple]:
    body = site.client.get(job["links"]["self"]).json()
    return [(each["file"], each["to"], each["status"], each["error"]) for each in body["deliveries"]]


def test_a_series_is_fetched_and_its_results_are_stored_beside_it(site: Service, server: Server, capfd, caplog):
    caplog.set_level("DEBUG")
    accepted = asked(site, {**NAMED, "priority": "stat"})
    assert accepted.status_code == 202, accepted.text
    assert accepted.json()["priority"] == "stat"
    job = site.ended(accepted.json())
    assert job["report"]["scan"]["shape"] == [24, 20, 10]
    assert [each["status"] for each in job["deliveries"]] == ["waiting", "waiting"]
    sender = outbox(site)
    assert [sender.send_one() for _ in range(3)] == [True, True, False]
    assert [(each.Modality, each.StudyInstanceUID) for each in server.stored] == [("SEG", STUDY), ("SR", STUDY)]
    assert delivered(site, job) == [(name, "dicomweb", "delivered", None) for name in ("seg.dcm", "sr.dcm")]
    said = "".join(capfd.readouterr()) + caplog.text + site.client.get(job["links"]["self"]).text
    assert not any(word in said for word in MARKED_WORDS)


def test_outlines_are_stored_too_where_they_are_wanted(server: Server, tmp_path: Path):
    site = Service(tmp_path / "data", dicomweb_url=server.url, rtstruct=True)
    try:
        site.start_worker()
        job = site.ended(asked(site).json())
        sender = outbox(site)
        assert [sender.send_one() for _ in range(4)] == [True, True, True, False]
        assert {each.Modality for each in server.stored} == {"SEG", "SR", "RTSTRUCT"}
        assert server.stored[0].Modality == "SEG"  # the others refer to it
        assert {row[2] for row in delivered(site, job)} == {"delivered"}
    finally:
        site.stop()


def test_what_was_planned_and_not_written_is_said(server: Server, tmp_path: Path):
    site = Service(tmp_path / "data", dicomweb_url=server.url, rtstruct=True)
    try:
        site.start_worker(tiny.run)  # a worker that was not told of outlines
        job = site.ended(asked(site).json())
        sender = outbox(site)
        assert [sender.send_one() for _ in range(4)] == [True, True, True, False]
        assert ("rtstruct.dcm", "dicomweb", "waiting", "not_written") in delivered(site, job)
    finally:
        site.stop()


FAILED = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}}


@pytest.mark.parametrize(
    ("stow", "code"),
    [
        ((200, FAILED), "refused_a700"),
        ((409, FAILED), "refused_a700"),
        ((200, {}), "not_confirmed"),
        ((200, b"<html>"), "answer_not_understood"),
        ((200, []), "answer_not_understood"),
        ((503, {}), "http_503"),
        ((307, {}), "http_307"),
    ],
)
def test_what_the_server_did_not_store_is_not_delivered_whatever_the_status(site, server, stow, code):
    server.stow = stow
    job = site.ended(asked(site).json())
    sender = outbox(site)
    assert sender.send_one()
    assert delivered(site, job)[0] == ("seg.dcm", "dicomweb", "waiting", code)
    assert not any("elsewhere" in path for path in server.called)
    server.stow = None
    until(lambda: (sender.send_one(), all(row[2] == "delivered" for row in delivered(site, job)))[1])
    assert len(server.stored) == 2


def test_an_erased_job_sends_nothing(site: Service, server: Server):
    job = site.ended(asked(site).json())
    site.client.delete(job["links"]["self"])
    assert not outbox(site).send_one()
    assert server.stored == []


@pytest.mark.parametrize(
    ("wado", "status", "code"),
    [
        ((404, "text/plain", b""), 422, "unknown_series"),
        ((500, "text/plain", b""), 502, "pacs_failed"),
        ((302, "text/plain", b""), 502, "pacs_failed"),
        ((200, "text/html", b"<html>"), 502, "pacs_failed"),
        ((200, "multipart/related; boundary=B", b"--X\r\n\r\n"), 502, "pacs_failed"),
        ((200, "multipart/related; boundary=B", b"--B\r\n\r\nhalf"), 502, "pacs_failed"),
        ((200, "multipart/related; boundary=B", b"--B\r\n\r\nnothing\r\n--B--\r\n"), 415, "no_dicom"),
        ((200, "multipart/related; boundary=B", b"--B\r\n\r\n" + bytes(10**6)), 413, "too_large"),
    ],
)
def test_an_answer_that_is_no_series_is_an_error_and_leaves_nothing(site, server, wado, status, code):
    server.wado = wado
    assert_problem(asked(site), status, code)
    assert len(server.called) == 1
    assert site.bytes_on_disk() == []


def test_a_server_that_is_away_is_an_error(site: Service, server: Server):
    server.shutdown()
    server.server_close()
    problem = assert_problem(asked(site), 502, "pacs_failed")
    assert not any(word in problem["detail"] for word in MARKED_WORDS)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"dicomweb": {"study": STUDY}},
        {"dicomweb": {"study": "../../other", "series": SERIES}},
        {"dicomweb": {"study": "http://10.0.0.1/", "series": SERIES}},
        {"dicomweb": {"study": STUDY, "series": "1." * 40 + "1"}},
        {**NAMED, "server": "http://10.0.0.1/"},
        {**NAMED, "priority": "soon"},
        {**NAMED, "more": "x" * 5000},
        [1],
    ],
)
def test_json_that_names_no_series_is_refused_and_nobody_is_called(site: Service, server: Server, body):
    problem = assert_problem(asked(site, body), 422, "invalid_request")
    assert not any(word in problem["detail"] for word in (*MARKED_WORDS, "10.0.0.1"))
    assert server.called == []


def test_json_that_is_none_is_malformed(site: Service):
    answer = site.client.post("/segment", content=b"{", headers={"Content-Type": "application/json; charset=utf-8"})
    assert_problem(answer, 400, "malformed_request")


def test_without_a_server_no_series_can_be_named(idle: Service):
    assert_problem(asked(idle), 422, "dicomweb_not_configured")


def test_the_same_key_and_series_are_one_job(site: Service):
    jobs = [asked(site, **{"Idempotency-Key": "k"}).json()["id"] for _ in range(2)]
    assert jobs[0] == jobs[1]
    other = asked(site, {**NAMED, "priority": "stat"}, **{"Idempotency-Key": "k"})
    assert_problem(other, 422, "invalid_request")
