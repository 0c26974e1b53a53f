"""A later scan, sent from the result of the earlier one: the page shows what the report says, and each place."""

import re

from app.imaging.nifti import write_volume
from app.imaging.volume import Label, Volume
from tests.browser.test_sending import send
from tests.browser.visits import Service, Visit, until
from training.phantom import HOUNSFIELD, Tissue


def later_scan(service: Service, tmp_path):
    """The phantom without its lesions in the half that is nearer to the head."""
    voxels, labels = service.phantom.volume.voxels.copy(order="F"), service.phantom.truth.labels
    upper = labels == Label.LESION
    upper[:, :, : labels.shape[2] // 2] = False
    voxels[upper] = HOUNSFIELD[Tissue.LIVER]
    write_volume(tmp_path / "later.nii.gz", Volume(voxels, service.phantom.volume.geometry))
    return tmp_path / "later.nii.gz"


def test_a_later_scan_is_compared_with_the_one_that_it_was_sent_from(visit: Visit, service: Service, tmp_path):
    first = service.send()
    visit.open_result(first)
    visit.page.get_by_role("link", name="Compare a later scan").click()
    assert first["id"][:12] in visit.page.locator(".upload-prior").inner_text()
    visit.page.set_input_files("input[name=file]", later_scan(service, tmp_path))
    service.release()
    job_id = send(visit)
    visit.wait_for_pictures()
    found = service.get(f"/jobs/{job_id}/report.json").json()["follow_up"]
    assert found["comparable"]
    rows = visit.page.locator(".follow-up tbody tr")
    states = [row["state"] for row in found["lesions"]]
    assert [name.strip("?") for name in visit.page.locator(".follow-up .lesion-name").all_inner_texts()] == states
    assert {"gone", "unchanged"} <= set(states)
    assert f"{found['totals']['lesions_ml']['prior']:.2f}" in visit.page.locator("#follow-up").inner_text()
    gone = states.index("gone")
    rows.nth(gone).get_by_role("button").click()
    there = found["lesions"][gone]["where_mm"]
    until(lambda: max(abs(a - b) for a, b in zip(visit.crosshair_mm(), there, strict=True)) < 4)
    with visit.page.expect_download() as got:
        visit.page.get_by_role("link", name="Changes since then").click()
    assert got.value.path().read_text().startswith("state,trend,")


def test_comparing_can_be_taken_back_and_a_prior_that_is_gone_is_explained(visit: Visit, service: Service):
    visit.open(f"/?prior={'0' * 32}")
    visit.page.set_input_files("input[name=file]", service.scan)
    visit.page.get_by_role("button", name="Segment this scan").click()
    panel = visit.page.get_by_role("alert")
    panel.wait_for()
    assert re.search("no job", panel.inner_text())
    visit.page.get_by_role("button", name="Do not compare").click()
    assert visit.page.locator(".upload-prior").count() == 0
    service.release()
    job_id = send(visit)
    visit.wait_for_pictures()
    assert service.get(f"/jobs/{job_id}/report.json").json()["follow_up"] is None
