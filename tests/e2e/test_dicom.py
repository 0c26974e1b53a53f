"""A zipped DICOM series over HTTP: which series, what comes back, and what does not."""

import io

import pytest
import tiny
from pydicom import dcmread
from service import Service, assert_problem

from tests.dicom_files import MARKED_WORDS, MARKS, change, series_of, zipped


@pytest.fixture
def series(tmp_path) -> bytes:
    return zipped(tmp_path, series_of(tiny.volume())).read_bytes()


@pytest.fixture
def two_series(tmp_path) -> bytes:
    other = [
        change(each, {"SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": f"1.2.3.4.{k}"})
        for k, each in enumerate(series_of(tiny.volume())[:5])
    ]
    return zipped(tmp_path, [*other, *series_of(tiny.volume())]).read_bytes()


def test_a_series_gives_a_segmentation_and_a_report_of_its_own_study(service: Service, series):
    job = service.ended(service.send(series).json())
    assert job["status"] == "succeeded"
    for what, modality in (("seg", "SEG"), ("sr", "SR")):
        answer = service.client.get(job["links"][what])
        assert answer.headers["content-type"] == "application/dicom"
        assert f"{job['id']}-{what}.dcm" in answer.headers["content-disposition"]
        written = dcmread(io.BytesIO(answer.content))
        assert (written.Modality, written.StudyInstanceUID) == (modality, MARKS["StudyInstanceUID"])


def test_what_the_service_says_of_a_series_names_nobody(service: Service, series):
    job = service.ended(service.send(series, series_uid=MARKS["SeriesInstanceUID"]).json())
    said = service.client.get(job["links"]["self"]).text + service.client.get(job["links"]["report"]).text
    assert not any(word in said for word in MARKED_WORDS)


def test_outlines_are_offered_where_they_are_wanted(tmp_path, series):
    service = Service(tmp_path / "data", rtstruct=True)
    try:
        service.start_worker()
        job = service.ended(service.send(series).json())
        answer = service.client.get(job["links"]["rtstruct"])
        assert answer.headers["content-type"] == "application/dicom"
        written = dcmread(io.BytesIO(answer.content))
        assert (written.Modality, written.StudyInstanceUID) == ("RTSTRUCT", MARKS["StudyInstanceUID"])
    finally:
        service.stop()


def test_outlines_are_not_written_unasked(service: Service, series):
    job = service.ended(service.send(series).json())
    assert job["links"]["rtstruct"] is None
    assert_problem(service.client.get(f"/jobs/{job['id']}/rtstruct.dcm"), 404, "not_found")


@pytest.mark.parametrize("name", ["seg.dcm", "sr.dcm", "rtstruct.dcm"])
def test_a_nifti_has_no_dicom_results(service: Service, scan, name):
    job = service.ended(service.send(scan).json())
    assert_problem(service.client.get(f"/jobs/{job['id']}/{name}"), 404, "not_found")


def test_of_several_series_one_must_be_named(service: Service, two_series):
    problem = assert_problem(service.send(two_series), 422, "several_series")
    assert "10 slices, axial, 24 x 20" in problem["detail"]
    assert "5 slices, axial, 24 x 20" in problem["detail"]
    assert service.bytes_on_disk() == []
    for uid in (MARKS["SeriesInstanceUID"], MARKS["SeriesInstanceUID"][-8:], "…" + MARKS["SeriesInstanceUID"][-8:]):
        job = service.ended(service.send(two_series, series_uid=uid).json())
        assert job["report"]["scan"]["shape"] == [24, 20, 10]


def test_another_series_of_the_same_zip_is_another_body(service: Service, two_series):
    key = {"Idempotency-Key": "once"}
    assert service.send(two_series, series_uid="1.2.3.4", headers=key).status_code == 202
    assert_problem(service.send(two_series, series_uid="56789", headers=key), 422, "invalid_request")


@pytest.mark.parametrize(("uid", "code"), [("9.9", "unknown_series"), ("not a uid", "invalid_request")])
def test_a_series_that_is_not_there_is_refused(service: Service, two_series, uid, code):
    assert_problem(service.send(two_series, series_uid=uid), 422, code)


def test_a_nifti_has_no_series_to_choose(service: Service, scan):
    assert_problem(service.send(scan, series_uid="1.2"), 422, "invalid_request")
    assert service.send(scan, series_uid="").status_code == 202
