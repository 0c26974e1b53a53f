"""`hepaseg dicom-node` as a process, called as a scanner or a PACS calls it."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
from pydicom.uid import MRImageStorage

from app.imaging.scan import read_scan
from app.jobs.job import Priority
from app.jobs.results import JobFiles
from app.jobs.store import Store
from app.settings import Settings
from tests.dicom_files import CT, MARKED_WORDS, change, series_of
from tests.pacs_peers import Program, associate, free_port, listens, store
from tests.waiting import until

ECHO = "1.2.840.10008.1.1"
RULES = '[take]\nleast_slices = 5\ndescription = ["abdomen", "^$"]\n[callers]\nPACS = "routine"\nER = "stat"\n'


class Site:
    """A data folder and the node on it."""

    def __init__(self, folder: Path) -> None:
        (folder / "rules.toml").write_text(RULES)
        given = {"dicom_port": free_port(), "dicom_rules": str(folder / "rules.toml"), "dicom_quiet_s": 1.5}
        self.settings = Settings(data_dir=folder / "data", min_free_bytes=0, log_level="debug", **given)
        self.port = self.settings.dicom_port
        self.store = Store.open(self.settings)
        self.program = Program(self.settings, folder / "log", "dicom-node")

    def start(self) -> None:
        self.program.start(lambda: listens(self.port))

    def jobs(self) -> list:
        return self.store.page(None, 100)

    def said(self, event: str) -> list[dict]:
        lines = self.program.log.read_text().splitlines()
        return [entry for line in lines if (entry := json.loads(line))["event"] == event]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.start()
    yield site
    site.program.stop()
    site.store.engine.dispose()
    log = site.program.log.read_text()
    assert not any(word in log for word in (*MARKED_WORDS, "Traceback"))


def statuses(answers) -> set[int]:
    return {answer.Status for answer in answers}


def test_it_answers_an_echo_and_those_only_that_it_knows(site: Site):
    association = associate(site.port, [ECHO])
    assert association.send_c_echo().Status == 0
    association.release()
    assert associate(site.port, [ECHO], caller="STRANGER").is_rejected
    assert associate(site.port, [ECHO], called="OTHER").is_rejected
    assert associate(site.port, [MRImageStorage]).accepted_contexts == []


def test_a_series_becomes_one_job_with_the_priority_of_its_caller(site: Site):
    volume = tiny.volume()
    assert statuses(store(site.port, series_of(volume)[::-1], caller="ER")) == {0}
    (job,) = until(site.jobs)
    assert job.priority is Priority.STAT
    scan = read_scan(JobFiles(site.settings.data_dir).scan(job.id))
    assert np.array_equal(scan.volume.voxels, volume.voxels)
    until(lambda: not any((site.settings.data_dir / "spool").rglob("*.dcm")))
    # A PACS that sends it once more gets no second result.
    store(site.port, series_of(volume), caller="ER")
    until(lambda: len(site.said("series taken")) == 2)
    assert [each["job"] for each in site.said("series taken")] == [job.id, job.id]


def test_one_association_after_the_other_may_bring_parts_of_a_series(site: Site):
    slices = series_of(tiny.volume())
    store(site.port, slices[:4])
    store(site.port, slices[4:])
    (job,) = until(site.jobs)
    assert read_scan(JobFiles(site.settings.data_dir).scan(job.id)).volume.geometry.shape == (24, 20, 10)


def test_a_sender_that_breaks_off_and_comes_again_makes_one_whole_series(site: Site):
    slices = series_of(tiny.volume())
    association = associate(site.port, [CT])
    for each in slices[:6]:
        assert association.send_c_store(each).Status == 0
    association.abort()
    # Longer than the quiet time: half a series would be a job by now.
    time.sleep(3 * site.settings.dicom_quiet_s)
    assert site.jobs() == []
    store(site.port, slices[6:])
    (job,) = until(site.jobs)
    assert read_scan(JobFiles(site.settings.data_dir).scan(job.id)).volume.geometry.shape == (24, 20, 10)


@pytest.mark.parametrize(
    ("changes", "kept", "code"),
    [
        ({}, slice(4), "too_few_slices"),
        ({"SeriesDescription": "Thorax"}, slice(None), "description_not_wanted"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, slice(None), "wrong_orientation"),
        ({"PixelSpacing": None}, slice(None), "missing_tags"),
        ({}, [0, 1, 2, 3, 5, 6, 7], "missing_slices"),
    ],
)
def test_what_the_rules_or_the_reader_refuse_is_no_job_and_the_log_says_why(site: Site, changes, kept, code):
    slices = [change(each, changes) for each in series_of(tiny.volume())]
    sent = slices[kept] if isinstance(kept, slice) else [slices[k] for k in kept]
    assert statuses(store(site.port, sent)) == {0}
    (refused,) = until(lambda: site.said("series refused"))
    assert (refused["code"], refused["instances"], refused["caller"]) == (code, len(sent), "PACS")
    assert site.jobs() == []
    until(lambda: not any((site.settings.data_dir / "spool").rglob("*.dcm")))
    assert not any((site.settings.data_dir / "jobs").iterdir())


def test_an_instance_without_a_series_is_answered_with_its_reason(site: Site):
    (answer,) = store(site.port, [change(series_of(tiny.volume())[0], {"SeriesInstanceUID": None})])
    assert (answer.Status, answer.ErrorComment) == (0xA900, "missing_tags")


def test_a_kill_between_arrival_and_job_loses_nothing(site: Site):
    store(site.port, series_of(tiny.volume()))
    site.program.stop(signal.SIGKILL)
    site.start()
    assert len(until(site.jobs)) == 1


def test_many_associations_and_a_long_one_do_not_make_memory_grow(site: Site):
    slices = series_of(tiny.volume())
    store(site.port, slices)
    before = site.program.peak_mib()

    def send(number: int) -> None:
        # A slice of 2 MiB; a caller's own series.
        big = np.full((1024, 1024), number, np.uint16)
        own = [change(each, {"SeriesInstanceUID": f"1.2.{number}", "SOPInstanceUID": f"1.2.{number}.{k}",
                             "Rows": 1024, "Columns": 1024, "PixelData": big.tobytes()})
               for k, each in enumerate(series_of(tiny.volume()))]  # fmt: skip
        store(site.port, own * 4)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 480 instances, 960 MiB came in.
    assert site.program.peak_mib() - before < 150
    assert CT in {each.SOPClassUID for each in slices}
