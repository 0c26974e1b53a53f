"""The table of deliveries, on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian

from app.dicom.outbox import DicomPeer
from app.dicom.peers import NotDelivered
from app.jobs.deliveries import DELIVERED, Deliveries
from app.jobs.job import INTERNAL_ERROR, Status
from app.jobs.store import Claim, Order, Outcome, Store
from app.settings import Settings


class Clock:
    now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, database_url: str, clock: Clock) -> Iterator[Store]:
    store = Store.open(Settings(data_dir=tmp_path, database_url=database_url), clock)
    yield store
    store.engine.dispose()


@pytest.fixture
def deliveries(store: Store, clock: Clock) -> Deliveries:
    return Deliveries(store.engine, clock)


def finished(store: Store, name="a", outcome=Status.SUCCEEDED) -> None:
    store.add(Order(name, deliver_to=("dicom",)))
    job = store.claim("w")
    error = INTERNAL_ERROR if outcome is Status.FAILED else None
    store.finish(Claim(name, job.attempt, "w"), Outcome(outcome, error))


def test_nothing_is_sent_before_the_job_has_succeeded(store, deliveries):
    store.add(Order("a", deliver_to=("dicom",)))
    assert deliveries.claim(["dicom"]) is None
    assert store.claim("x").id == "a"
    finished(store, "b", Status.FAILED)
    assert deliveries.claim(["dicom"]) is None


def test_each_file_is_claimed_once_segmentation_first(store, deliveries):
    finished(store)
    claimed = [deliveries.claim(["dicom"]) for _ in range(3)]
    assert [each and each[0].name for each in claimed] == [*DELIVERED, None]
    assert claimed[0][1] == 1


def test_a_destination_that_is_not_configured_waits(store, deliveries):
    finished(store)
    assert deliveries.claim(["dicomweb"]) is None
    assert deliveries.claim([]) is None


def test_what_was_refused_comes_again_ever_later_and_is_never_given_up(store, deliveries, clock):
    finished(store)
    pauses = []
    for _ in range(30):
        for _ in DELIVERED:
            delivery, _ = deliveries.claim(["dicom"])
            pauses.append(deliveries.refused(delivery, "unreachable"))
        assert deliveries.claim(["dicom"]) is None
        clock.forward(pauses[-1])
    assert pauses[::2] == sorted(pauses[::2])
    assert (pauses[0], pauses[2], max(pauses)) == (2.0, 4.0, 600.0)
    assert [each.error for each in deliveries.of("a")] == ["unreachable"] * 2


def test_what_was_accepted_is_not_sent_again(store, deliveries, clock):
    finished(store)
    for _ in DELIVERED:
        deliveries.accepted(deliveries.claim(["dicom"])[0])
    clock.forward(1e6)
    assert deliveries.claim(["dicom"]) is None
    assert all(each.delivered_at and each.error is None for each in deliveries.of("a"))


def test_a_delivery_whose_sender_died_is_taken_up_again(store, deliveries, clock):
    finished(store)
    deliveries.claim(["dicom"])
    clock.forward(301)
    taken = [deliveries.claim(["dicom"])[0] for _ in DELIVERED]
    assert [(each.name, each.attempts) for each in taken] == [("sr.dcm", 1), ("seg.dcm", 2)]


@pytest.mark.parametrize("way", ["erase", "expire"])
def test_of_an_erased_job_nothing_is_sent_or_kept(store, deliveries, clock, way):
    finished(store)
    clock.forward(60)
    store.erase("a") if way == "erase" else store.expire(clock.now)
    assert deliveries.claim(["dicom"]) is None
    assert deliveries.of("a") == []


def test_a_destination_whose_name_nobody_knows_is_unreachable(tmp_path: Path):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComprehensiveSRStorage, "1.2.3"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    with pytest.raises(NotDelivered) as failed:
        DicomPeer("PACS@no-such-host.invalid:104", "HEPASEG").send((tmp_path / "sr.dcm").read_bytes())
    assert failed.value.code == "unreachable"
