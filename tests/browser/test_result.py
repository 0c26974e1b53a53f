"""A result in the browser: what is drawn, where a click leads, what can be taken away; and the list of scans."""

import io
import re

import numpy as np
from PIL import Image

from app.imaging.nifti import write_volume
from app.imaging.volume import Geometry, Volume
from tests.browser.visits import Service, Visit, until


def colours(visit: Visit) -> np.ndarray:
    """The pictures as they are on the screen: (rows, columns, 3)."""
    visit.settle()
    return np.asarray(
        Image.open(io.BytesIO(visit.page.locator(".stage canvas").first.screenshot())).convert("RGB")
    ).astype(int)


def is_liver(picture: np.ndarray) -> np.ndarray:
    """Where the liver's green lies over grey."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (green - red > 25) & (blue - red > 10) & (blue < green)


def is_lesion(picture: np.ndarray) -> np.ndarray:
    """Where the first lesion's orange lies over grey."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (red - green > 50) & (red - blue > 50)


def assert_surrounds(line: np.ndarray, area: np.ndarray) -> None:
    """A line along the edge of an area: as far out on one side as on the other, to half a voxel, which has six pixels.

    Filled areas are smoothed, and end within the voxels whose edges the line follows.
    """
    line, area = np.argwhere(line), np.argwhere(area)
    assert len(line) > 40
    before, after = area.min(axis=0) - line.min(axis=0), line.max(axis=0) - area.max(axis=0)
    assert (np.abs(before - after) <= 5).all(), (before, after)
    assert ((before >= -1) & (before <= 10)).all(), before


def is_body(picture: np.ndarray) -> np.ndarray:
    return picture.max(axis=-1) > 15


def test_the_liver_is_drawn_on_the_patients_right_which_is_on_the_left(visit: Visit, service: Service):
    visit.open_result(service.send())
    visit.page.keyboard.press("1")
    picture = colours(visit)
    liver, lesion, body = is_liver(picture), is_lesion(picture), is_body(picture)
    assert liver.sum() > 2000
    assert lesion.sum() > 100
    middle = np.flatnonzero(body.any(axis=0)).mean()
    columns = np.flatnonzero(liver.any(axis=0))
    assert columns.mean() < middle
    assert np.nonzero(lesion)[1].mean() < middle
    # The spine is towards the lower edge: the patient lies on the back.
    bright = (picture.min(axis=-1) > 240) & body
    assert np.nonzero(bright)[0].mean() > np.flatnonzero(body.any(axis=1)).mean()


def test_layers_can_be_hidden_one_by_one(visit: Visit, service: Service):
    visit.open_result(service.send())
    visit.page.keyboard.press("1")
    assert is_liver(colours(visit)).sum() > 2000
    visit.page.get_by_label("Liver", exact=True).uncheck()
    picture = colours(visit)
    assert is_liver(picture).sum() == 0
    assert is_lesion(picture).sum() > 100
    visit.page.get_by_label("Show lesion 1").uncheck()
    assert is_lesion(colours(visit)).sum() == 0
    visit.page.keyboard.press("c")
    assert is_liver(colours(visit)).sum() == 0


def test_a_click_on_a_lesion_goes_to_its_centroid(visit: Visit, service: Service):
    job = service.send()
    visit.open_result(job)
    voxel_mm = np.array(service.phantom.volume.geometry.spacing_mm)
    for lesion in reversed(job["report"]["lesions"]):
        visit.page.locator(f"tr[data-lesion='{lesion['id']}'] td").nth(1).click()
        away = np.abs(np.array(visit.crosshair_mm()) - lesion["centroid_mm"])
        assert (away <= voxel_mm / 2).all(), (lesion["id"], away)
        slices = service.phantom.volume.geometry.shape[2]
        k = round((np.linalg.inv(service.phantom.volume.geometry.affine) @ [*lesion["centroid_mm"], 1])[2])
        said = visit.page.locator(".readout").inner_text()
        assert f"lesion {lesion['id']}" in said
        assert f"slice {k + 1} of {slices}" in said
        assert visit.page.locator(".lesions tr[aria-selected=true]").get_attribute("data-lesion") == str(lesion["id"])
    # And by key: after the first comes the second.
    visit.page.keyboard.press("n")
    assert (
        np.abs(np.array(visit.crosshair_mm()) - job["report"]["lesions"][1]["centroid_mm"]).max() <= voxel_mm.max() / 2
    )


def test_pointing_at_a_row_makes_the_lesion_stand_out(visit: Visit, service: Service):
    visit.open_result(service.send())
    visit.page.keyboard.press("1")
    visit.page.mouse.move(5, 5)
    before = colours(visit)
    visit.page.locator("tr[data-lesion='1']").hover()
    until(lambda: _new_white(colours(visit), before).sum() > 60)
    assert_surrounds(_new_white(colours(visit), before), is_lesion(before))
    visit.page.mouse.move(5, 5)
    until(lambda: not _new_white(colours(visit), before).any())


def _new_white(picture: np.ndarray, before: np.ndarray) -> np.ndarray:
    return (picture.min(axis=-1) > 245) & (before.min(axis=-1) < 240)


def test_contours_run_along_the_edge_of_what_was_filled(visit: Visit, service: Service):
    visit.open_result(service.send())
    visit.page.keyboard.press("1")
    filled = colours(visit)
    visit.page.keyboard.press("c")
    until(lambda: is_liver(colours(visit)).sum() < is_liver(filled).sum() / 4)
    drawn = colours(visit)
    assert_surrounds(is_liver(drawn), is_liver(filled))
    red, green, blue = np.moveaxis(drawn, -1, 0)
    assert_surrounds((red - green > 100) & (red - blue > 100), is_lesion(filled))
    visit.page.keyboard.press("c")
    for key in "lauaba":
        visit.page.keyboard.press(key)
    until(lambda: np.array_equal(colours(visit), filled))


def test_a_tilted_scan_is_looked_at_where_its_lesions_are(visit: Visit, service: Service, tmp_path):
    cosine, sine = np.cos(np.deg2rad(18)), np.sin(np.deg2rad(18))
    tilted = service.phantom.volume.geometry.affine.copy()
    tilted[:3, :3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ tilted[:3, :3]
    volume = Volume(service.phantom.volume.voxels, Geometry(service.phantom.volume.geometry.shape, tilted))
    write_volume(tmp_path / "tilted.nii.gz", volume)
    job = service.send(scan=tmp_path / "tilted.nii.gz")
    visit.open_result(job)
    for lesion in job["report"]["lesions"]:
        visit.page.locator(f"tr[data-lesion='{lesion['id']}'] td").nth(1).click()
        voxel = np.linalg.inv(tilted) @ [*lesion["centroid_mm"], 1]
        seen = np.linalg.inv(tilted) @ [*visit.crosshair_mm(), 1]
        assert (np.abs(voxel - seen) <= 0.51).all(), (lesion["id"], voxel, seen)
        assert f"lesion {lesion['id']}" in visit.page.locator(".readout").inner_text()


def test_the_window_changes_the_picture(visit: Visit, service: Service):
    visit.open_result(service.send())
    visit.page.keyboard.press("1")
    visit.page.keyboard.press("o")
    abdomen = colours(visit)
    visit.page.keyboard.press("u")
    lung = colours(visit)
    assert "W 1500 L -600" in visit.page.locator(".levels").inner_text()
    assert lung.mean() > abdomen.mean() + 20


def test_downloads_are_the_bytes_of_the_interface(visit: Visit, service: Service):
    job = service.send(service.reference)
    visit.open_result(job)
    links = visit.page.locator(".files a")
    assert links.count() == 8
    for n in range(links.count()):
        with visit.page.expect_download() as started:
            links.nth(n).click()
        path = links.nth(n).get_attribute("href")
        assert started.value.path().read_bytes() == service.get(path).content, path
    with visit.page.expect_popup() as opened:
        visit.page.get_by_text("Open the printable sheet").click()
    sheet = opened.value
    sheet.wait_for_load_state()
    assert "Research use only" in sheet.content()
    assert sheet.evaluate("document.images[0].naturalWidth") > 500
    sheet.close()
    assert service.get(f"/jobs/{job['id']}/scan").content == service.scan.read_bytes()


def test_a_reference_adds_agreement_and_a_picture_of_the_differences(visit: Visit, service: Service):
    job = service.send(service.reference)
    visit.open_result(job)
    table = visit.page.locator(".agreement")
    assert f"{job['report']['agreement']['liver']['dice']:.3f}" in table.inner_text()
    visit.page.keyboard.press("1")
    visit.page.keyboard.press("d")
    until(lambda: _yellow(colours(visit)).sum() > 200)
    picture = colours(visit)
    # The reference is moved to the patient's left: too much liver lies on the right edge, some is missed on the other.
    extra, missed = _yellow(picture), _blue(picture)
    assert missed.sum() > 200
    assert np.nonzero(extra)[1].mean() < np.nonzero(missed)[1].mean()


def _yellow(picture: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (red - blue > 90) & (green - blue > 60)


def _blue(picture: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (blue - red > 70) & (blue - green > 40)


def test_the_list_filters_and_finds_and_links(visit: Visit, service: Service):
    job = service.send()
    visit.open("/")
    row = visit.page.locator(f"a[href='/view/{job['id']}']")
    row.wait_for()
    visit.page.get_by_label("State").select_option("failed")
    until(lambda: row.count() == 0)
    visit.page.get_by_label("State").select_option("queued")
    visit.page.get_by_text("No scan fits.").wait_for()
    visit.page.get_by_label("State").select_option("succeeded")
    until(lambda: row.count() == 1)
    visit.page.get_by_label("Search scans").fill(job["id"][:10])
    until(lambda: visit.page.locator(".list tbody tr").count() == 1)
    row.click()
    visit.page.wait_for_url(f"**/view/{job['id']}")
    visit.page.go_back()
    row.wait_for()


def test_an_erased_scan_is_gone(visit: Visit, service: Service):
    job = service.send()
    visit.open(f"/view/{job['id']}")
    visit.page.get_by_role("button", name="Erase…").click()
    visit.page.get_by_role("button", name="Erase", exact=True).click()
    visit.page.wait_for_url(re.compile(r"/$"))
    assert service.get(f"/jobs/{job['id']}").status_code == 410
    visit.open(f"/view/{job['id']}")
    visit.page.get_by_role("alert").get_by_text("Erased or expired").wait_for()


def test_an_address_of_nothing_says_so(visit: Visit):
    visit.open("/view/nonsense")
    visit.page.get_by_role("alert").get_by_text("There is no such job").wait_for()
