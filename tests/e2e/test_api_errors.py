"""Whatever a client sends: one shape of error, the right status, nothing left on disk, and the service goes on."""

import errno
import gzip
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
from PIL import Image
from service import Service, assert_problem
from sqlalchemy.exc import OperationalError

from app.errors import HepasegError
from app.jobs.job import Status
from app.jobs.registry import WorkerState
from app.jobs.store import Order, Store
from app.quality import MEND

#: What never reaches a client: the base of all, what ends a job, and what only the commands about receipts raise.
ONLY_HERE = ["error", "canceled", "broken_receipt"]


def nifti(voxels: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_bytes()


def header_with(**fields: object) -> bytes:
    """A proper small scan whose header then says something else."""
    raw = bytearray(nifti(np.zeros((8, 8, 8), np.int16)))
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(bytes(raw)), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    return bytes(raw)


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40)).save(stream, "PNG")
    return stream.getvalue()


BAD_SCANS = {
    "empty": (b"", 415),
    "text": (b"hello", 415),
    "a photograph": (png(), 415),
    "gzip of text": (gzip.compress(b"hello" * 100), 415),
    "gzip cut in its header": (gzip.compress(b"x" * 1000)[:8], None),
    "zeros": (bytes(400), 415),
    "nifti cut in its header": (nifti(np.zeros((8, 8, 8), np.int16))[:200], None),
    "two dimensions": (nifti(np.zeros((8, 8), np.int16)), 422),
    "four dimensions": (nifti(np.zeros((8, 8, 8, 5), np.int16)), 422),
    "promises 100 GB": (header_with(dim=[3, 5000, 5000, 2000, 1, 1, 1, 1]), 413),
    "negative dimension": (header_with(dim=[3, -8, 8, 8, 1, 1, 1, 1]), 422),
    "complex numbers": (nifti(np.zeros((8, 8, 8), np.complex64)), 422),
    "gzip bomb": (gzip.compress(header_with(dim=[3, 512, 512, 512, 1, 1, 1, 1]) + bytes(10**6)), None),
}


@pytest.mark.parametrize("what", BAD_SCANS)
def test_a_file_that_is_no_scan_is_refused_with_a_code(idle: Service, scan: bytes, what: str):
    content, status = BAD_SCANS[what]
    response = idle.send(content)
    if status is None and response.status_code == 202:
        pytest.skip("shows only when the file is read")
    assert_problem(response, status or response.status_code, response.json()["code"])
    assert 400 <= response.status_code < 500
    assert idle.bytes_on_disk() == []
    assert idle.send(scan).status_code == 202


@pytest.mark.parametrize("what", BAD_SCANS)
def test_a_reference_that_is_none_is_refused_as_such(idle: Service, scan: bytes, what: str):
    response = idle.send(scan, BAD_SCANS[what][0])
    if BAD_SCANS[what][1] is None and response.status_code == 202:
        pytest.skip("shows only when the file is read")
    assert_problem(response, 422, "invalid_reference")
    assert idle.bytes_on_disk() == []


def test_a_reference_on_another_grid_is_refused_at_once(idle: Service, scan: bytes, tmp_path: Path):
    other = tiny.save_reference(tmp_path / "other.nii.gz", (24, 20, 9)).read_bytes()
    detail = assert_problem(idle.send(scan, other), 422, "invalid_reference")["detail"]
    assert "(24, 20, 9)" in detail
    assert "(24, 20, 10)" in detail


FORM = 'multipart/form-data; boundary="x"'


@pytest.mark.parametrize(
    ("dtype", "shape", "code"), [(np.uint8, (32, 32, 12), "not_ct"), (np.int16, (8, 32, 12), "too_few_pixels")]
)
def test_what_its_header_shows_to_be_no_ct_is_refused_before_it_is_taken_in(idle: Service, dtype, shape, code):
    problem = assert_problem(idle.send(nifti(np.zeros(shape, dtype), np.diag([-8.0, -8.0, 10.0, 1.0]))), 422, code)
    assert MEND[code] in problem["detail"]
    assert idle.client.get("/jobs").json()["jobs"] == []
    assert idle.bytes_on_disk() == []


def part(name: str, content: str = "a", extra: str = "") -> str:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n{content}\r\n'


BAD_FORMS = {
    "no content type": (None, "abc", 400, "malformed_request"),
    "json": ("application/json", "{}", 422, "invalid_request"),
    "urlencoded": ("application/x-www-form-urlencoded", "file=a", 400, "malformed_request"),
    "no boundary": ("multipart/form-data", "--x--", 400, "malformed_request"),
    "a very long boundary": ("multipart/form-data; boundary=" + "x" * 5000, "--x--", 400, "malformed_request"),
    "nothing in it": (FORM, "", 400, "malformed_request"),
    "no part": (FORM, "--x--\r\n", 400, "malformed_request"),
    "another boundary": (FORM, "--y\r\n\r\n--y--", 400, "malformed_request"),
    "no end": (FORM, part("file"), 400, "malformed_request"),
    "cut after the file": (FORM, part("file") + "--x\r\nContent-Dispo", 400, "malformed_request"),
    "cut in a header": (FORM, "--x\r\nContent-Dispo", 400, "malformed_request"),
    "no name": (FORM, "--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n", 422, "invalid_request"),
    "no header": (FORM, "--x\r\n\r\na\r\n--x--\r\n", 422, "invalid_request"),
    "endless header": (FORM, "--x\r\nA: " + "b" * 100_000, 400, "malformed_request"),
    "no file": (FORM, part("priority", "stat") + "--x--\r\n", 400, "malformed_request"),
    "file twice": (FORM, part("file") * 2 + "--x--\r\n", 400, "malformed_request"),
    "priority twice": (FORM, part("priority", "stat") * 2 + "--x--\r\n", 400, "malformed_request"),
    "unknown field": (FORM, part("patient") + part("file") + "--x--\r\n", 422, "invalid_request"),
    "unknown priority": (FORM, part("priority", "now") + part("file") + "--x--\r\n", 422, "invalid_request"),
    "endless priority": (FORM, part("priority", "s" * 1000) + part("file") + "--x--\r\n", 422, "invalid_request"),
    "a path as name": (FORM, part("../../scan") + "--x--\r\n", 422, "invalid_request"),
}


def test_a_scan_whose_reference_was_cut_off_is_not_taken_without_it(idle: Service, scan: bytes):
    opening, closing = part("file", "#").encode().split(b"#")
    cut = opening + scan + closing + b"--x\r\nContent-Disposition: form-data; name="
    assert_problem(idle.client.post("/segment", content=cut, headers={"Content-Type": FORM}), 400, "malformed_request")
    assert idle.bytes_on_disk() == []


@pytest.mark.parametrize("what", BAD_FORMS)
def test_a_form_that_cannot_be_read_is_refused_and_leaves_nothing(idle: Service, what: str):
    kind, body, status, code = BAD_FORMS[what]
    response = idle.client.post("/segment", content=body, headers={"Content-Type": kind} if kind else {})
    assert_problem(response, status, code)
    assert idle.bytes_on_disk() == []


BAD_CALLS = {
    ("GET", "/nothing"): (404, "not_found"),
    ("GET", "/segment"): (405, "method_not_allowed"),
    ("PUT", "/jobs"): (405, "method_not_allowed"),
    ("POST", "/health/live"): (405, "method_not_allowed"),
    ("GET", "/jobs/none"): (404, "not_found"),
    ("GET", "/jobs/none/events"): (404, "not_found"),
    ("GET", "/jobs/none/labels.nii.gz"): (404, "not_found"),
    ("GET", "/jobs/none/scan"): (404, "not_found"),
    ("GET", "/jobs/..%2F..%2Fetc%2Fpasswd"): (404, "not_found"),
    ("GET", "/jobs/%00"): (404, "not_found"),
    ("GET", "/jobs/%FF%FE"): (404, "not_found"),
    ("POST", "/jobs/none/cancel"): (404, "not_found"),
    ("DELETE", "/jobs/none"): (404, "not_found"),
    ("GET", "/jobs?limit=0"): (422, "invalid_request"),
    ("GET", "/jobs?limit=many"): (422, "invalid_request"),
    ("GET", "/jobs?status=lost"): (422, "invalid_request"),
    ("GET", "/jobs?cursor=%21%21"): (422, "invalid_request"),
    ("GET", "/jobs?cursor=bmFuIHg="): (422, "invalid_request"),
    ("GET", "/jobs?cursor=aW5mIHg="): (422, "invalid_request"),
    ("GET", "/jobs?cursor=MWUzMDAgeA=="): (422, "invalid_request"),
    ("GET", "/jobs?cursor=MS4wIGEAYg=="): (422, "invalid_request"),
    ("GET", "/jobs?cursor=" + "A" * 300): (422, "invalid_request"),
}


@pytest.mark.parametrize("call", BAD_CALLS, ids=" ".join)
def test_every_error_has_the_one_shape(idle: Service, call: tuple[str, str]):
    response = idle.client.request(*call)
    assert_problem(response, *BAD_CALLS[call])
    if response.status_code == 405:
        assert response.headers["allow"]


def test_too_long_a_body_is_refused_before_it_is_read(tmp_path: Path, scan: bytes):
    service = Service(tmp_path, max_upload_bytes=1000)
    headers = {"Content-Type": FORM, "Content-Length": "1001"}
    # The test client reads bodies itself, so this shows the answer alone; test_server.py shows it on a socket.
    assert_problem(service.client.post("/segment", content=b"x" * 1001, headers=headers), 413, "too_large")
    assert service.bytes_on_disk() == []
    service.stop()


def test_too_long_a_body_of_unknown_length_is_refused_on_its_way(tmp_path: Path):
    service = Service(tmp_path, max_upload_bytes=5000)

    def chunks():
        yield part("file", "").removesuffix("\r\n").encode()
        for _ in range(100):
            yield b"a" * 1000

    response = service.client.post("/segment", content=chunks(), headers={"Content-Type": FORM})
    assert_problem(response, 413, "too_large")
    assert service.bytes_on_disk() == []
    service.stop()


def test_a_scan_with_too_many_voxels_is_refused(tmp_path: Path, scan: bytes):
    service = Service(tmp_path, max_voxels=4799)
    assert_problem(service.send(scan), 413, "too_large")
    service.stop()


def test_a_full_queue_says_when_to_come_back(tmp_path: Path, scan: bytes):
    service = Service(tmp_path, queue_limit=1)
    key = {"Idempotency-Key": "k"}
    assert service.send(scan, headers=key).status_code == 202
    response = service.send(scan)
    assert_problem(response, 429, "overloaded")
    assert int(response.headers["retry-after"]) > 0
    assert service.send(scan, headers=key).status_code == 202
    assert len(list((service.settings.data_dir / "jobs").iterdir())) == 1
    service.stop()


def test_a_scan_that_no_worker_has_the_memory_for_says_when_to_come_back(tmp_path: Path, scan: bytes):
    service = Service(tmp_path, memory_bytes=2**20)
    service.parts.registry.say("w", WorkerState.READY, models={})
    response = service.send(scan)
    assert "memory" in assert_problem(response, 429, "overloaded")["detail"]
    assert int(response.headers["retry-after"]) > 0
    assert service.bytes_on_disk() == []
    service.stop()


def test_without_room_on_the_disk_no_scan_is_taken(tmp_path: Path, scan: bytes):
    service = Service(tmp_path)
    object.__setattr__(service.settings, "__dict__", {**service.settings.__dict__, "min_free_bytes": 1 << 60})
    assert_problem(service.send(scan), 507, "storage_full")
    service.stop()


def test_a_disk_that_fills_during_the_upload_leaves_nothing_behind(idle: Service, scan: bytes, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("os.fsync", full)
    assert_problem(idle.send(scan), 507, "storage_full")
    assert idle.bytes_on_disk() == []


def test_a_database_that_fails_leaves_no_scan_behind_and_says_nothing_of_itself(idle, scan, monkeypatch):
    def broken(self: Store, order: Order) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(Store, "add", broken)
    problem = assert_problem(idle.send(scan), 500, "internal_error")
    assert problem["detail"] == "Internal error."
    assert idle.bytes_on_disk() == []


def test_a_database_that_another_process_keeps_locked_is_not_ready(idle: Service, scan: bytes, monkeypatch):
    def locked(self: Store, order: Order) -> None:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    monkeypatch.setattr(Store, "add", locked)
    assert_problem(idle.send(scan), 503, "not_ready")
    assert idle.bytes_on_disk() == []


def test_every_error_of_ours_has_a_status_and_a_code_of_its_own():
    from app.api.problems import _status_of_code

    kinds, codes = [HepasegError], []
    while kinds:
        kind = kinds.pop()
        codes.append(kind.code)
        kinds += kind.__subclasses__()
    assert len(codes) - codes.count("canceled") == len(set(codes)) - 1
    statuses = _status_of_code()
    assert [code for code, status in statuses.items() if status == 500] == ONLY_HERE


def test_the_documentation_names_every_route_and_error(idle: Service):
    document = idle.client.get("/openapi.json").json()
    assert set(document["paths"]) >= {
        "/segment",
        "/jobs",
        "/jobs/{job_id}",
        *(f"/jobs/{{job_id}}/{name}" for name in ("cancel", "events", "labels.nii.gz", "liver.nii.gz")),
        *(f"/jobs/{{job_id}}/{name}" for name in ("lesions.nii.gz", "report.json", "preview.png")),
        *("/models", "/health/live", "/health/ready", "/metrics"),
    }
    answers = document["paths"]["/segment"]["post"]["responses"]
    assert set(answers) == {"200", "202", "400", "413", "415", "422", "429", "502", "503", "507"}
    assert "HTTPValidationError" not in json.dumps(document)
    for path, status in (("/segment", "415"), ("/jobs/{job_id}", "410")):
        operation = next(iter(document["paths"][path].values()))
        assert list(operation["responses"][status]["content"]) == ["application/problem+json"]
    assert document["components"]["schemas"]["JobBody"]["example"]["status"] == "queued"


def test_statuses_in_the_documentation_are_those_of_jobs(idle: Service):
    schema = idle.client.get("/openapi.json").json()["components"]["schemas"]["JobBody"]
    assert schema["properties"]["status"]["enum"] == [status.value for status in Status]


def test_the_manual_names_every_route_and_every_code(idle: Service):
    manual = (Path(__file__).parents[2] / "docs" / "http.md").read_text("utf-8")
    for path, operations in idle.client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path.replace('job_id', 'id')}`" in manual
    from app.api.problems import _status_of_code

    for code, status in {**_status_of_code(), "too_many_attempts": 500, "internal_error": 500}.items():
        if code not in ONLY_HERE:
            assert f"| {status} | `{code}` |" in manual
