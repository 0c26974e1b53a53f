"""What goes with a result over HTTP: the scan, the reference, the sheet; and the files of the page."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import tiny
from service import Service, assert_problem

from app.api.pages import POLICY
from tests.dicom_files import MARKED_WORDS, series_of, small_volume, zipped


def test_scan_and_reference_come_back_as_they_were_sent(service: Service, scan, reference):
    job = service.ended(service.send(scan, reference).json())
    for name, sent in (("scan", scan), ("reference", reference)):
        answer = service.client.get(f"/jobs/{job['id']}/{name}")
        assert answer.content == sent
        assert answer.headers["content-type"] == "application/gzip"
        assert f"{job['id']}-{name}.nii.gz" in answer.headers["content-disposition"]


def test_an_unpacked_scan_stays_unpacked(service: Service, scan):
    plain = gzip.decompress(scan)
    job = service.ended(service.send(plain).json())
    answer = service.client.get(f"/jobs/{job['id']}/scan")
    assert answer.content == plain
    assert answer.headers["content-disposition"].rstrip('"').endswith(".nii")


def test_the_scan_can_be_seen_before_the_job_has_ended(idle: Service, scan):
    job = idle.send(scan).json()
    assert idle.client.get(f"/jobs/{job['id']}/scan").content == scan
    for name in ("sheet.html", "lesions.csv"):
        assert_problem(idle.client.get(f"/jobs/{job['id']}/{name}"), 409, "conflict")


@pytest.mark.parametrize("name", ["scan", "reference", "sheet.html", "lesions.csv"])
def test_of_an_erased_or_unknown_job_there_is_nothing(service: Service, scan, name):
    job = service.ended(service.send(scan).json())
    service.client.delete(f"/jobs/{job['id']}")
    assert_problem(service.client.get(f"/jobs/{job['id']}/{name}"), 410, "gone")
    assert_problem(service.client.get(f"/jobs/nothing/{name}"), 404, "not_found")


def test_no_reference_was_sent(service: Service, scan):
    job = service.ended(service.send(scan).json())
    assert_problem(service.client.get(f"/jobs/{job['id']}/reference"), 404, "not_found")


def test_a_dicom_series_comes_back_as_nifti_that_says_nothing_of_the_patient(service: Service, tmp_path):
    volume = tiny.volume()
    job = service.ended(service.send(zipped(tmp_path, series_of(volume)).read_bytes()).json())
    answer = service.client.get(f"/jobs/{job['id']}/scan")
    stored = gzip.decompress(answer.content)
    assert not any(word.encode() in stored for word in MARKED_WORDS)
    (tmp_path / "scan.nii").write_bytes(stored)
    back = nib.load(tmp_path / "scan.nii")
    ours = volume.reoriented("RAS")
    theirs = nib.as_closest_canonical(back)
    assert np.allclose(theirs.affine, ours.geometry.affine, atol=1e-4)
    assert np.array_equal(np.asarray(theirs.dataobj), ours.voxels)


def test_a_dicom_series_cannot_be_seen_before_its_job_has_ended(idle: Service, tmp_path):
    job = idle.send(zipped(tmp_path, series_of(small_volume())).read_bytes()).json()
    assert_problem(idle.client.get(f"/jobs/{job['id']}/scan"), 409, "conflict")


@pytest.mark.parametrize("path", ["/", "/view/abc"])
def test_the_page_has_its_policy_and_is_packed_for_whom_takes_it(service: Service, path):
    plain = service.client.get(path, headers={"Accept-Encoding": "identity"})
    packed = service.client.get(path)
    assert plain.text == packed.text
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert plain.headers["content-security-policy"] == POLICY
    assert plain.headers["x-content-type-options"] == "nosniff"
    again = service.client.get(path, headers={"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["../main.py", "%2e%2e/main.py", "js", "", "js/none.js", "..%2fapi%2fpages.py"])
def test_no_other_file_can_be_had(service: Service, name):
    assert service.client.get(f"/web/{name}").status_code == 404


def test_the_viewer_is_kept_by_the_browser_for_good(service: Service):
    answer = service.client.get("/web/vendor/niivue/niivue-0.69.0.js")
    assert answer.headers["cache-control"].endswith("immutable")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "BSD 2-Clause" in service.client.get("/web/vendor/niivue/LICENSE.txt").text
