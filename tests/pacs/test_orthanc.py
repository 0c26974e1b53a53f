"""From a real Orthanc to the service and back: by C-STORE and by DICOMweb, with Orthanc away for a while."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from pydicom import dcmread

sys.path.append(str(Path(__file__).parent))
from orthanc import Orthanc

from app.dicom.readback import SegmentationFile, measured_groups, voxels_on
from app.settings import Settings
from tests.analytic_networks import phantom_models
from tests.dicom_files import MARKED_WORDS, MARKS, named, program, series_of
from tests.pacs_peers import Program, free_port, listens
from tests.waiting import until
from training.phantom import Phantom, abdomen

pytestmark = pytest.mark.pacs

STUDY, SERIES = MARKS["StudyInstanceUID"], MARKS["SeriesInstanceUID"]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return abdomen(seed=3, shape=(64, 56, 24), spacing_mm=(5.0, 5.5, 8.0), noise_hu=0)


class Hospital:
    """Orthanc, the service, its DICOM node, and a folder with a CT."""

    def __init__(self, folder: Path, phantom: Phantom) -> None:
        ports = [free_port() for _ in range(4)]
        self.orthanc = Orthanc(folder / "orthanc", ports[0], ports[1], ports[2])
        self.settings = Settings(
            data_dir=folder / "data", models_dir=phantom_models(folder / "models"), port=ports[3], threads=1,
            min_free_bytes=0, log_level="debug", dicom_port=ports[2], dicom_quiet_s=2,
            dicom_destination=f"ORTHANC@127.0.0.1:{ports[1]}", dicomweb_url=f"{self.orthanc.url}/dicom-web",
        )  # fmt: skip
        self.node = Program(self.settings, folder / "node.log", "dicom-node")
        self.service = Program(self.settings, folder / "service.log", "serve")
        self.url = f"http://127.0.0.1:{ports[3]}"
        self.slices = folder / "slices"
        self.slices.mkdir()
        for name, content in named(series_of(phantom.volume), folder="").items():
            (self.slices / name.strip("/")).write_bytes(content)

    def start(self) -> None:
        self.orthanc.start()
        self.node.start(lambda: listens(self.settings.dicom_port))
        self.service.start(self.is_ready)

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:  # the next one is stopped even if one does not
            for each in (self.node, self.service, self.orthanc):
                stack.callback(each.stop)

    def push(self) -> None:
        """Send the CT to Orthanc with dcmtk."""
        command = [program("storescu"), "-aec", "ORTHANC", "+sd", "127.0.0.1", str(self.orthanc.dicom_port)]
        subprocess.run([*command, str(self.slices)], check=True, capture_output=True, timeout=180)

    def jobs(self) -> list[dict]:
        listed = httpx.get(f"{self.url}/jobs", timeout=60).json()["jobs"]
        return [httpx.get(f"{self.url}{each['links']['self']}", timeout=60).json() for each in listed]

    def ended(self) -> dict:
        return until(lambda: next((job for job in self.jobs() if job["completed_at"]), None))

    def results(self) -> tuple[bytes, bytes]:
        """Segmentation and report, once both are in Orthanc."""
        found = until(lambda: (ids := self.orthanc.instances("SEG") + self.orthanc.instances("SR"))[1:] and ids)
        seg, sr = (self.orthanc.file(each) for each in found)
        return seg, sr

    def logs(self) -> str:
        return self.node.log.read_text() + self.service.log.read_text()

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def hospital(tmp_path: Path, phantom: Phantom) -> Iterator[Hospital]:
    hospital = Hospital(tmp_path, phantom)
    try:
        hospital.start()
        yield hospital
    finally:
        hospital.stop()


def assert_right(seg: bytes, sr: bytes, phantom: Phantom, job: dict) -> None:
    """The results are of the right study, and lie voxel for voxel where the truth lies."""
    for content, modality in ((seg, "SEG"), (sr, "SR")):
        header = dcmread(io.BytesIO(content))
        assert (header.Modality, header.StudyInstanceUID) == (modality, STUDY)
        assert (str(header.PatientName), header.PatientID) == (MARKS["PatientName"], MARKS["PatientID"])
    read = SegmentationFile(seg)
    assert read.header.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES
    found = np.zeros((len(read.segments) + 1, *phantom.volume.geometry.shape), bool)
    for plane in read.planes():
        found[plane.segment][tuple(voxels_on(phantom.volume.geometry, plane.points_mm()).T)] = True
    assert np.array_equal(found[1], phantom.truth.liver)
    assert np.array_equal(found[2:].any(axis=0), phantom.truth.labels == 2)
    groups = measured_groups(sr)
    assert {group.segmentation_uid for group in groups} == {str(read.header.SOPInstanceUID)}
    assert len(groups) == len(read.segments) == job["report"]["lesion_count"] + 1


def is_delivered(job: dict) -> bool:
    return [each["status"] for each in job["deliveries"]] == ["delivered", "delivered"]


def test_a_ct_pushed_into_orthanc_comes_back_as_segmentation_and_report(hospital: Hospital, phantom: Phantom):
    hospital.push()
    seg, sr = hospital.results()
    job = hospital.ended()
    assert_right(seg, sr, phantom, job)
    (job,) = until(lambda: [each for each in hospital.jobs() if is_delivered(each)])
    assert {each["to"] for each in job["deliveries"]} == {"dicom"}
    # No log line of the whole way says who the patient is, at the chattiest level.
    assert not any(word in hospital.logs() for word in (*MARKED_WORDS, "Traceback"))
    assert '"level": "debug"' in hospital.logs()


def test_a_series_named_over_dicomweb_is_fetched_and_its_results_are_stored(hospital: Hospital, phantom: Phantom):
    hospital.node.stop()  # nothing is routed
    hospital.push()
    named_ = {"dicomweb": {"study": STUDY, "series": SERIES}}
    accepted = httpx.post(f"{hospital.url}/segment", json=named_, timeout=60)
    assert accepted.status_code == 202, accepted.text
    seg, sr = hospital.results()
    job = hospital.ended()
    assert_right(seg, sr, phantom, job)
    (job,) = until(lambda: [each for each in hospital.jobs() if is_delivered(each)])
    assert {each["to"] for each in job["deliveries"]} == {"dicomweb"}
    assert not any(word in hospital.logs() for word in (*MARKED_WORDS, "Traceback"))
    nothing = {"dicomweb": {"study": STUDY, "series": "1.2.3"}}
    assert httpx.post(f"{hospital.url}/segment", json=nothing, timeout=60).json()["code"] == "unknown_series"


def test_results_arrive_when_orthanc_is_back_even_if_the_node_was_killed(hospital: Hospital, phantom: Phantom):
    hospital.service.stop()
    hospital.push()
    until(lambda: "series taken" in hospital.node.log.read_text())
    hospital.orthanc.stop()
    hospital.service.start(hospital.is_ready)
    hospital.ended()
    (job,) = until(lambda: [each for each in hospital.jobs() if any(row["error"] for row in each["deliveries"])])
    assert not is_delivered(job)
    hospital.node.stop(9)
    hospital.node.start(lambda: listens(hospital.settings.dicom_port))
    hospital.orthanc.start()
    seg, sr = hospital.results()
    assert_right(seg, sr, phantom, job)
    until(lambda: is_delivered(hospital.jobs()[0]))
    assert not any(word in hospital.logs() for word in (*MARKED_WORDS, "Traceback"))
