"""The HTTP contract over a real store, real folders and a real worker, with a tiny pipeline."""

import gzip
import json
import re
import threading
import time
from datetime import timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import tiny
from service import Service, assert_problem

from app.jobs.job import Status, utc_now
from app.jobs.registry import WorkerState
from app.jobs.store import Claim, Outcome
from app.jobs.worker import Worker
from tests.waiting import PATIENCE_S, until

RESULTS = ("labels", "liver", "lesions", "report", "preview")


def loaded(content: bytes, folder: Path) -> nib.Nifti1Image:
    path = folder / "downloaded.nii.gz"
    path.write_bytes(content)
    return nib.load(path)


# --- the main road


def test_a_scan_goes_in_and_labels_on_its_own_grid_come_out(service: Service, scan, reference, tmp_path):
    accepted = service.send(scan, reference, priority="urgent")
    assert accepted.status_code == 202
    job = accepted.json()
    assert accepted.headers["location"] == job["links"]["self"] == f"/jobs/{job['id']}"
    assert int(accepted.headers["retry-after"]) >= 1
    assert job["priority"] == "urgent"
    job = service.ended(job)
    assert (job["status"], job["progress"], job["stage"], job["error"]) == ("succeeded", 1.0, None, None)
    labels = loaded(service.client.get(job["links"]["labels"]).content, tmp_path)
    assert np.array_equal(labels.affine, tiny.affine())
    truth = np.asarray(nib.load(tiny.save_scan(tmp_path / "ct.nii.gz")).dataobj)
    expected = np.select([truth == tiny.LIVER_HU, truth == tiny.LESION_HU], [1, 2], 0)
    assert np.array_equal(np.asarray(labels.dataobj), expected)


def test_a_job_that_was_run_before_there_were_receipts_has_none(service: Service, scan):
    job = service.ended(service.send(scan).json())  # nor has one of the stand-in that runs these jobs
    assert job["links"]["receipt"] is None
    assert_problem(service.client.get(f"/jobs/{job['id']}/receipt.json"), 404, "not_found")


def test_the_body_of_a_job_has_the_fields_of_the_contract(service: Service, scan):
    job = service.ended(service.send(scan).json())
    assert set(job) == {
        *("id", "status", "priority", "stage", "progress", "queue", "created_at", "started_at", "completed_at"),
        *("error", "warnings", "deliveries", "report", "links"),
    }
    assert set(job["links"]) == {"self", "cancel", "events", *RESULTS, "receipt", "seg", "sr", "rtstruct"}
    assert job["links"]["seg"] is job["links"]["sr"] is job["links"]["rtstruct"] is None
    assert job["warnings"] == [{"code": "thick_slices", "detail": "The slices are thick."}]
    assert job["created_at"] <= job["started_at"] <= job["completed_at"]
    assert job["queue"] is None


def test_every_result_has_its_media_type_its_tag_and_a_name_without_the_senders(service: Service, scan):
    job = service.ended(service.send(scan).json())
    types = {"labels": "application/gzip", "report": "application/json", "preview": "image/png"}
    for what in RESULTS:
        response = service.client.get(job["links"][what])
        assert response.status_code == 200
        assert response.headers["content-type"] == types.get(what, "application/gzip")
        assert job["id"] in response.headers["content-disposition"]
        again = service.client.get(job["links"][what], headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert service.client.get(job["links"]["report"]).json() == job["report"]
    assert gzip.decompress(service.client.get(job["links"]["lesions"]).content)


def test_a_waiting_job_knows_its_place(idle: Service, scan):
    first, second = (idle.send(scan).json() for _ in range(2))
    assert (first["status"], first["queue"]) == ("queued", {"position": 1, "eta_s": None})
    assert second["queue"]["position"] == 2
    overtaking = idle.send(scan, priority="stat").json()
    assert overtaking["queue"]["position"] == 1
    assert first["links"]["labels"] is None


def test_prefer_wait_answers_with_the_finished_job(service: Service, scan):
    response = service.send(scan, headers={"Prefer": "respond-async, wait=20"})
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    assert response.headers["preference-applied"] == "wait=20"


def test_prefer_wait_gives_up_in_time(idle: Service, scan):
    response = idle.send(scan, headers={"Prefer": "wait=1"})
    assert (response.status_code, response.json()["status"]) == (202, "queued")


def test_a_preference_that_makes_no_sense_is_ignored(idle: Service, scan):
    assert idle.send(scan, headers={"Prefer": "wait=soon"}).status_code == 202


def test_a_repetition_with_its_key_gives_the_same_job(idle: Service, scan, reference):
    key = {"Idempotency-Key": "abc"}
    first, again = (idle.send(scan, headers=key).json() for _ in range(2))
    assert first["id"] == again["id"]
    assert_problem(idle.send(scan, reference, headers=key), 422, "invalid_request")
    assert_problem(idle.send(scan, headers=key, priority="stat"), 422, "invalid_request")
    assert len(idle.client.get("/jobs").json()["jobs"]) == 1
    assert len(list((idle.settings.data_dir / "jobs").iterdir())) == 1


def test_the_same_body_is_the_same_job_where_the_sender_wants_it(idle: Service, scan, reference):
    key = {"Idempotency-Key": "content"}
    first, again = (idle.send(scan, headers=key).json()["id"] for _ in range(2))
    others = {idle.send(scan, reference, headers=key).json()["id"], idle.send(scan).json()["id"]}
    assert first == again
    assert len({first, *others}) == 3
    idle.client.delete(f"/jobs/{first}")
    assert idle.send(scan, headers=key).json()["id"] not in {first, *others}


def test_an_empty_key_is_refused_and_does_not_make_all_senders_one(idle: Service, scan):
    assert_problem(idle.send(scan, headers={"Idempotency-Key": ""}), 422, "invalid_request")


def test_damage_that_shows_only_when_read_fails_the_job_with_a_problem(service: Service, scan):
    job = service.ended(service.send(scan[:-20]).json())
    assert job["status"] == "failed"
    problem = job["error"]
    assert (problem["status"], problem["code"]) == (422, "corrupt_file")
    assert problem["instance"] == f"/jobs/{job['id']}"
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code"}
    assert service.ended(service.send(scan).json())["status"] == "succeeded"


# --- list, cancel, erase, watch


def test_pages_of_jobs_hold_each_job_once(idle: Service, scan):
    ids = [idle.send(scan).json()["id"] for _ in range(5)]
    seen, cursor = [], None
    for _ in range(3):
        page = idle.client.get("/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
    assert (seen, cursor) == (ids[::-1], None)
    assert len(idle.client.get("/jobs", params={"status": "queued"}).json()["jobs"]) == 5
    assert idle.client.get("/jobs", params={"status": "failed"}).json()["jobs"] == []


def test_cancel_is_idempotent_and_too_late_after_the_end(idle: Service, scan):
    job = idle.send(scan).json()
    for _ in range(2):
        canceled = idle.client.post(job["links"]["cancel"])
        assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    done = idle.send(scan).json()
    idle.start_worker()
    assert idle.ended(done)["status"] == "succeeded"
    assert_problem(idle.client.post(f"/jobs/{done['id']}/cancel"), 409, "conflict")


def test_a_running_job_is_canceled_at_its_next_word(idle: Service, scan):
    def endless(work, tell):
        while True:
            tell("liver", 0.3)
            time.sleep(0.01)

    idle.start_worker(endless)
    job = idle.send(scan).json()
    until(lambda: idle.client.get(job["links"]["self"]).json()["stage"] == "liver")
    idle.client.post(job["links"]["cancel"])
    assert idle.ended(job)["status"] == "canceled"


def test_results_that_are_not_there_yet_are_a_conflict(idle: Service, scan):
    job = idle.send(scan).json()
    for name in ("labels.nii.gz", "liver.nii.gz", "lesions.nii.gz", "report.json", "preview.png"):
        problem = assert_problem(idle.client.get(f"/jobs/{job['id']}/{name}"), 409, "conflict")
        assert "queued" in problem["detail"]


def test_delete_erases_every_byte(service: Service, scan):
    job = service.ended(service.send(scan, headers={"Idempotency-Key": "k"}).json())
    assert service.bytes_on_disk()
    assert service.client.delete(job["links"]["self"]).status_code == 204
    assert service.bytes_on_disk() == []
    assert list((service.settings.data_dir / "trash").iterdir()) == []
    for path in ("", "/events", "/labels.nii.gz", "/report.json"):
        assert_problem(service.client.get(job["links"]["self"] + path), 410, "gone")
    assert_problem(service.client.post(f"/jobs/{job['id']}/cancel"), 410, "gone")
    assert service.client.delete(job["links"]["self"]).status_code == 204
    assert service.client.get("/jobs").json()["jobs"] == []
    again = service.send(scan, headers={"Idempotency-Key": "k"}).json()
    assert again["id"] != job["id"]


def events_of(text: str) -> list[tuple[str, str, dict]]:
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def test_results_that_expire_are_erased_and_answered_with_410(tmp_path: Path, scan):
    service = Service(tmp_path, retention_days=30)
    job = service.send(scan).json()
    worker = Worker(service.parts.store, service.settings, tiny.run)
    worker.run_once()
    labels = f"{job['links']['self']}/labels.nii.gz"
    service.parts.store.clock = lambda: utc_now() + timedelta(days=29)
    worker._next_housekeeping = 0.0
    worker._keep_house()
    assert service.client.get(labels).status_code == 200
    service.parts.store.clock = lambda: utc_now() + timedelta(days=31)
    worker._next_housekeeping = 0.0
    worker._keep_house()
    for path in ("", "/labels.nii.gz", "/report.json"):
        assert_problem(service.client.get(job["links"]["self"] + path), 410, "gone")
    assert service.bytes_on_disk() == []
    assert [job["status"] for job in service.client.get("/jobs", params={"status": "expired"}).json()["jobs"]] == [
        "expired"
    ]
    service.stop()


def test_events_begin_after_the_last_one_that_was_seen(idle: Service, scan):
    job = idle.send(scan).json()
    store = idle.parts.store
    claimed = store.claim("w")
    claim = Claim(claimed.id, claimed.attempt, "w")
    store.renew(claim, "liver", 0.3)
    seen = store.get(job["id"]).revision

    def go_on() -> None:
        store.renew(claim, "crf", 0.6)
        time.sleep(1.5)
        store.finish(claim, Outcome(Status.CANCELED))

    def watched(headers: dict) -> list[int]:
        text = idle.client.get(job["links"]["events"], headers=headers).text
        return [int(number) for _, number, _ in events_of(text)]

    timer = threading.Timer(1.5, go_on)
    timer.start()
    numbers = watched({"Last-Event-ID": str(seen)})
    timer.join()
    assert numbers[-1] == store.get(job["id"]).revision
    assert seen not in numbers


def test_events_tell_the_stages_and_end_with_the_job(idle: Service, scan):
    go = threading.Event()

    def stepwise(work, tell):
        tell("read", 0.0)
        go.wait(PATIENCE_S)
        tell("liver", 0.4)
        time.sleep(1.5)
        return tiny.run(work, tiny.in_silence)

    job = idle.send(scan).json()
    idle.start_worker(stepwise)
    threading.Timer(2.0, go.set).start()
    response = idle.client.get(job["links"]["events"])
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    stages = [data["stage"] for kind, _, data in events if kind == "stage"]
    assert [stage for stage in stages if stage] == ["read", "liver"]
    kind, last_id, body = events[-1]
    assert kind == "completed"
    assert body == idle.client.get(job["links"]["self"]).json()
    numbers = [int(number) for _, number, _ in events]
    assert numbers == sorted(numbers)
    again = idle.client.get(job["links"]["events"], headers={"Last-Event-ID": last_id})
    assert [kind for kind, _, _ in events_of(again.text)] == ["completed"]


# --- the service about itself


def test_ready_follows_the_worker_and_live_does_not(idle: Service):
    assert idle.client.get("/health/live").json() == {"status": "live"}
    assert_problem(idle.client.get("/health/ready"), 503, "not_ready")
    assert_problem(idle.client.get("/models"), 503, "not_ready")
    idle.start_worker()
    assert idle.client.get("/health/ready").json() == {"status": "ready", "workers": 1}
    assert idle.client.get("/models").json() == tiny.CARDS


def test_broken_networks_are_named_and_no_scan_is_taken(idle: Service, scan):
    idle.parts.registry.say("w", WorkerState.BROKEN, "liver.onnx: expected sha256 a, found b.")
    assert "liver.onnx" in assert_problem(idle.client.get("/health/ready"), 503, "not_ready")["detail"]
    assert "liver.onnx" in assert_problem(idle.send(scan), 503, "not_ready")["detail"]


def test_metrics_count_jobs(idle: Service, scan):
    idle.send(scan)
    text = idle.client.get("/metrics").text
    assert 'hepaseg_jobs{status="queued"} 1\n' in text
    assert "hepaseg_workers_ready 0\n" in text


def test_the_front_page_holds_no_script_and_loads_none_from_elsewhere(idle: Service):
    response = idle.client.get("/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'"} <= set(policy)
    assert "'unsafe-" not in " ".join(policy)
    for attributes, content in re.findall(r"<script([^>]*)>(.*?)</script>", response.text, re.DOTALL):
        assert content == ""
        assert 'src="/web/' in attributes


def test_logs_hold_no_file_name_and_no_address_that_a_client_made_up(service: Service, scan, capfd):
    service.ended(service.send(scan).json())
    service.client.get("/Doe^John")
    captured = capfd.readouterr()
    said = captured.out + captured.err
    assert "request" in said
    assert "Doe" not in said
