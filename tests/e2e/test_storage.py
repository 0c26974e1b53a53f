"""Scans and results in an S3 store: machines that share a database and a bucket, and no disk."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
import tiny
from service import Service, assert_problem

from app.errors import Gone, InvalidRequest
from app.jobs import remote, worker
from app.jobs.job import Status
from app.jobs.remote import RemoteFiles
from app.jobs.results import RESULT_NAMES, JobFiles
from app.jobs.worker import Worker
from app.settings import Settings
from tests.services import free_port
from tests.waiting import until

pytestmark = pytest.mark.services


class Site:
    """An api machine and a worker machine."""

    def __init__(self, folder: Path, address: str) -> None:
        self.api = Service(folder / "api", storage_url=address)
        database = f"sqlite:///{folder / 'api' / 'hepaseg.sqlite'}"
        self.there = Settings(data_dir=folder / "there", storage_url=address, database_url=database, poll_s=0.02)
        self.bucket = remote._open(address)

    def work(self) -> None:
        Worker(self.api.parts.store, self.there, tiny.run).run_once()

    def stored(self) -> list[str]:
        return sorted(found["path"] for batch in obstore.list(self.bucket) for found in batch)

    def files_on_disk(self) -> list[Path]:
        """Bytes of jobs on either machine, apart from copies that an answer was just sent from."""
        folders = [self.api.settings.data_dir, self.there.data_dir]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return [path for path in found if not re.search(r"sqlite|workers/|borrowed/", str(path))]


@pytest.fixture
def site(tmp_path: Path, s3: str) -> Iterator[Site]:
    site = Site(tmp_path, s3)
    yield site
    site.api.stop()


def test_a_worker_on_another_machine_does_the_job(site: Site, scan: bytes, reference: bytes):
    sent = site.api.send(scan, reference).json()
    assert site.stored() == [f"jobs/{sent['id']}/reference", f"jobs/{sent['id']}/scan"]
    assert site.files_on_disk() == []
    site.work()
    done = site.api.ended(sent)
    assert (done["status"], done["report"]["lesion_count"]) == ("succeeded", 1)
    assert site.files_on_disk() == []
    results = {name: site.api.client.get(f"/jobs/{sent['id']}/{name}") for name in RESULT_NAMES}
    assert {answer.status_code for answer in results.values()} == {200}
    assert site.api.client.get(f"/jobs/{sent['id']}/scan").content == scan
    assert site.api.client.get(f"/jobs/{sent['id']}/reference").content == reference


def test_delete_erases_every_byte_in_the_store_and_on_every_disk(site: Site, scan: bytes, monkeypatch):
    monkeypatch.setattr(remote, "_BORROWED_S", 0.2)
    sent = site.api.send(scan).json()
    site.work()
    assert site.api.client.get(f"/jobs/{sent['id']}/labels.nii.gz").status_code == 200
    assert len(site.stored()) == 1 + len(RESULT_NAMES)
    assert site.api.client.delete(f"/jobs/{sent['id']}").status_code == 204
    assert site.stored() == []
    until(lambda: not list((site.api.settings.data_dir / "borrowed").iterdir()))
    assert site.files_on_disk() == []


def test_a_prior_is_copied_within_the_store_and_outlives_its_job(site: Site, scan: bytes):
    prior = site.api.send(scan).json()
    site.work()
    sent = site.api.send(scan, prior=prior["id"]).json()
    labels = site.api.client.get(f"/jobs/{prior['id']}/labels.nii.gz").content
    assert site.api.client.delete(f"/jobs/{prior['id']}").status_code == 204
    assert site.stored() == [f"jobs/{sent['id']}/{name}" for name in ("prior_labels", "prior_report", "scan")]
    assert JobFiles.of(site.api.settings).prior(sent["id"]).read_bytes() == labels
    site.work()
    assert site.api.ended(sent)["status"] == "succeeded"
    assert site.api.client.delete(f"/jobs/{sent['id']}").status_code == 204
    assert site.stored() == []


def test_an_attempt_that_fails_leaves_nothing_in_the_store_but_what_was_sent(site: Site, scan: bytes):
    sent = site.api.send(scan).json()

    def work(work, tell) -> list:
        (work.output / "labels.nii.gz").write_bytes(b"half")
        site.api.parts.store.reap(dead=site.api.parts.store.owners())  # and another worker overtakes it
        site.work()
        return []

    Worker(site.api.parts.store, site.there, work).run_once()
    job = site.api.parts.store.get(sent["id"])
    assert (job.status, job.published) == (Status.SUCCEEDED, 2)
    assert [key for key in site.stored() if "/attempts/1/" in key] == []
    assert len([key for key in site.stored() if "/attempts/2/" in key]) == len(RESULT_NAMES)


def test_a_scan_is_not_taken_while_the_store_is_away(tmp_path: Path, s3: str, scan: bytes, monkeypatch):
    monkeypatch.setattr(remote, "_RETRY", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    service = Service(tmp_path, storage_url=s3)
    assert_problem(service.send(scan), 503, "storage_unreachable")
    assert service.client.get("/jobs").json()["jobs"] == []
    service.stop()


@pytest.mark.parametrize("when", ["reading", "writing"])
def test_a_job_is_tried_again_while_the_store_is_away_and_then_fails_with_the_reason(
    site: Site, scan: bytes, monkeypatch, when: str
):
    monkeypatch.setattr(remote, "_RETRY", {"max_retries": 0})
    monkeypatch.setattr(worker, "_STORAGE_PAUSE_S", 0.0)
    sent = site.api.send(scan).json()
    store = site.api.parts.store
    good = site.there.storage_url

    def cut_off(work, tell) -> list:
        tiny.run(work, tell)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        broken._files._store = remote._open(good)
        return []

    there = os.environ["AWS_ENDPOINT_URL"]
    if when == "reading":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    states = []
    for _ in range(3):
        if when == "writing":
            monkeypatch.setenv("AWS_ENDPOINT_URL", there)
        broken = Worker(store, site.there, cut_off)
        broken.run_once()
        states.append(store.get(sent["id"]).status)
    assert states == [Status.QUEUED, Status.QUEUED, Status.FAILED]
    assert store.get(sent["id"]).error.code == "storage_unreachable"
    assert [key for key in site.stored() if "attempts" in key] == []


def test_orphans_in_the_store_are_swept_and_nothing_else(site: Site, tmp_path: Path, scan: bytes):
    sent = site.api.send(scan).json()
    files = RemoteFiles(tmp_path / "third", site.there.storage_url)
    (files.create("orphan") / "scan").write_bytes(b"cut off")
    files.seal(tmp_path / "third" / "jobs" / "orphan")
    files.sweep(site.api.parts.store.has, older_than_s=3600)
    assert len(site.stored()) == 2
    files.sweep(site.api.parts.store.has, older_than_s=-5)
    assert site.stored() == [f"jobs/{sent['id']}/scan"]
    with pytest.raises(Gone):
        files.scan("orphan")


def test_the_address_decides_where_files_are(tmp_path: Path):
    def of(address: str) -> JobFiles:
        return JobFiles.of(Settings(data_dir=tmp_path / "data", storage_url=address))

    assert of("").root == tmp_path / "data"
    assert of(str(tmp_path / "elsewhere")).root == tmp_path / "elsewhere"
    assert of(f"file://{tmp_path}/elsewhere").root == tmp_path / "elsewhere"
    with pytest.raises(InvalidRequest, match="HEPASEG_STORAGE_URL"):
        of("ftp://host/scans")
