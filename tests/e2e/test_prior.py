"""POST /segment with a prior: its labels are this job's own from then on, and what cannot be one is refused at once."""

import hashlib
from functools import partial

import pytest
import tiny
from service import Service, assert_problem

from app.jobs.lease import Progress
from app.jobs.worker import Work


def finished(service: Service, scan: bytes) -> dict:
    return service.ended(service.send(scan).json())


def watched(service: Service) -> list[Work]:
    """What the worker is given, with the bytes of the prior read while it runs."""
    seen: list[Work] = []

    def run(work: Work, tell: Progress):
        seen.append((work, *(None if each is None else each.read_bytes() for each in (work.prior, work.prior_report))))
        return tiny.run(work, tell)

    service.start_worker(run)
    return seen


def result(service: Service, job: dict, name: str) -> bytes:
    return service.client.get(f"/jobs/{job['id']}/{name}").content


def test_a_job_keeps_its_own_copy_of_the_prior_which_outlives_it(idle: Service, scan: bytes):
    seen = watched(idle)
    first = finished(idle, scan)
    expected = result(idle, first, "labels.nii.gz"), result(idle, first, "report.json")
    idle.worker.stop.set()
    idle._thread.join()
    sent = idle.send(scan, prior=first["id"])
    assert sent.status_code == 202, sent.text
    assert idle.client.delete(f"/jobs/{first['id']}").status_code == 204
    seen = watched(idle)
    assert idle.ended(sent.json())["status"] == "succeeded"
    _, labels, report = seen[-1]
    assert (labels, report) == expected
    assert idle.client.delete(f"/jobs/{sent.json()['id']}").status_code == 204
    assert idle.bytes_on_disk() == []


def test_labels_may_be_sent_instead_and_come_to_the_worker_as_they_were(idle: Service, scan: bytes, reference: bytes):
    seen = watched(idle)
    files = {"file": ("ct", scan), "prior_labels": ("Doe^John.nii.gz", reference)}
    sent = idle.client.post("/segment", files=files)
    assert idle.ended(sent.json())["status"] == "succeeded"
    work, labels, report = seen[-1]
    assert (labels, report) == (reference, None)
    assert work.prior.name == "prior_labels"


def test_without_a_prior_the_worker_gets_none(idle: Service, scan: bytes):
    seen = watched(idle)
    finished(idle, scan)
    assert seen[-1][1:] == (None, None)
    job = idle.client.get("/jobs").json()["jobs"][0]
    assert_problem(idle.client.get(f"/jobs/{job['id']}/follow_up.csv"), 404, "not_found")


def test_a_prior_that_is_no_finished_job_is_refused_with_what_to_mend(idle: Service, scan: bytes):
    send = partial(idle.send, scan)
    problem = assert_problem(send(prior="0" * 32), 422, "prior_not_found")
    assert "prior_labels" in problem["detail"]
    waiting = idle.send(scan).json()["id"]
    problem = assert_problem(send(prior=waiting), 422, "prior_not_finished")
    assert "queued" in problem["detail"]
    idle.client.post(f"/jobs/{waiting}/cancel")
    assert_problem(send(prior=waiting), 422, "prior_without_results")
    idle.client.delete(f"/jobs/{waiting}")
    assert_problem(send(prior=waiting), 422, "prior_gone")
    for wrong in ("../../etc/passwd", waiting.upper() + "0", "x"):
        assert_problem(send(prior=wrong), 422, "invalid_prior")
    assert [path for path in idle.bytes_on_disk() if path.is_file()] == []


def test_results_that_vanish_meanwhile_are_said_to_be_gone(service: Service, scan: bytes):
    first = finished(service, scan)
    service.parts.files.erase(first["id"])
    assert_problem(service.send(scan, prior=first["id"]), 422, "prior_gone")


@pytest.mark.parametrize("content", [b"", b"no labels", b"PK\x03\x04 a zip"])
def test_prior_labels_that_are_no_nifti_are_refused(idle: Service, scan: bytes, content: bytes):
    files = {"file": ("ct", scan), "prior_labels": ("labels", content)}
    problem = assert_problem(idle.client.post("/segment", files=files), 422, "invalid_prior")
    assert "`prior_labels`" in problem["detail"]
    assert [path for path in idle.bytes_on_disk() if path.is_file()] == []


def test_a_job_and_labels_together_are_refused(service: Service, scan: bytes, reference: bytes):
    first = finished(service, scan)
    files = {"file": ("ct", scan), "prior_labels": ("labels", reference)}
    sent = service.client.post("/segment", files=files, data={"prior": first["id"]})
    assert_problem(sent, 422, "invalid_request")


def test_the_same_scan_with_another_prior_is_another_body(service: Service, scan: bytes, reference: bytes):
    first = finished(service, scan)
    key = {"Idempotency-Key": "once"}
    one = service.send(scan, prior=first["id"], headers=key)
    assert service.send(scan, prior=first["id"], headers=key).json()["id"] == one.json()["id"]
    assert_problem(service.send(scan, headers=key), 422, "invalid_request")
    files = {"file": ("ct", scan), "prior_labels": ("labels", reference)}
    assert_problem(service.client.post("/segment", files=files, headers=key), 422, "invalid_request")


def test_a_body_without_a_prior_has_the_fingerprint_that_it_always_had(idle: Service, scan: bytes):
    job = idle.parts.store.get(idle.send(scan).json()["id"])
    expected = "\n".join((hashlib.sha256(scan).hexdigest(), "", "routine", ""))
    assert job.fingerprint == hashlib.sha256(expected.encode()).hexdigest()
