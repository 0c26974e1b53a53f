"""Every form of result in a real Orthanc, sent either way: what comes back from there is what was found."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from pydicom import dcmread

sys.path.append(str(Path(__file__).parent))
from orthanc import Orthanc

from app.dicom.outbox import DicomPeer
from app.dicom.peers import NotDelivered, Peer, sop_uids
from app.dicom.seg import encoded
from app.dicom.verification import verify_report, verify_segmentation, verify_structures
from app.dicom.web import DicomWeb
from app.imaging.volume import Segmentation
from tests.dicom_case import Case, torn_labels
from tests.dicom_files import packed, small_volume
from tests.pacs_peers import free_port

pytestmark = pytest.mark.pacs


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    orthanc = Orthanc(tmp_path_factory.mktemp("orthanc"), free_port(), free_port(), free_port())
    try:
        orthanc.start()
        yield orthanc
    finally:
        orthanc.stop()


@pytest.fixture(params=["C-STORE", "STOW-RS"])
def peer(orthanc: Orthanc, request: pytest.FixtureRequest) -> Peer:
    if request.param == "C-STORE":
        return DicomPeer(f"ORTHANC@127.0.0.1:{orthanc.dicom_port}", "HEPASEG")
    return DicomWeb(f"{orthanc.url}/dicom-web")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path, small_volume())


def fetched(orthanc: Orthanc, content: bytes) -> bytes:
    """The instance as Orthanc has it."""
    uid = sop_uids(content)[1]
    (found,) = httpx.post(f"{orthanc.url}/tools/lookup", content=uid, timeout=60).json()
    return orthanc.file(found["ID"])


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_masks_and_their_report_come_back_as_they_were_found(orthanc, peer, case, kind):
    seg = case.seg(kind)
    sr = encoded(case.sr(seg))
    for content in (encoded(seg), sr):
        peer.send(content)
    written = fetched(orthanc, encoded(seg))
    assert dcmread(io.BytesIO(written)).SegmentationType == kind
    verify_segmentation(written, case.segmentation, case.segments, case.report, case.source)
    verify_report(fetched(orthanc, sr), str(seg.SOPInstanceUID), case.segments, case.report)


def test_outlines_come_back_as_they_were_drawn(orthanc, peer, tmp_path):
    case = Case(tmp_path, small_volume(), turned=Segmentation(torn_labels(), small_volume().geometry))
    seg = case.seg()
    structures = encoded(case.structures(seg))
    peer.send(structures)
    reference = (str(seg.SOPInstanceUID), case.source)
    verify_structures(fetched(orthanc, structures), case.segmentation, case.segments, case.report, reference)


def test_what_was_accepted_may_be_sent_again(orthanc, peer, case):
    content = encoded(case.seg())
    for _ in range(2):
        peer.send(content)
    assert fetched(orthanc, content)


def test_what_orthanc_does_not_store_is_not_delivered(orthanc, peer, case):
    seg = case.seg()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "PatientID"):
        seg[keyword].value = ""
    with pytest.raises(NotDelivered) as caught:
        peer.send(packed(seg))
    assert caught.value.code.startswith(("refused_", "http_", "not_confirmed"))
    assert httpx.post(f"{orthanc.url}/tools/lookup", content=seg.SOPInstanceUID, timeout=60).json() == []
