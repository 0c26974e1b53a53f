"""A person's way through the page: send, watch, look, take away; and what happens when something is wrong."""

import io
import re

import numpy as np
from PIL import Image

from tests.browser.visits import Service, Visit, until


def choose(visit: Visit, service: Service, *, reference: bool = False) -> None:
    visit.open("/")
    visit.page.set_input_files("input[name=file]", service.scan)
    if reference:
        visit.page.set_input_files("input[name=reference]", service.reference)


def send(visit: Visit) -> str:
    """Press the button; gives the id of the job that is shown then."""
    visit.page.get_by_role("button", name="Segment this scan").click()
    visit.page.wait_for_url("**/view/*")
    return visit.page.url.rsplit("/", 1)[1]


def colours(visit: Visit) -> np.ndarray:
    """The pictures as they are on the screen: (rows, columns, 3)."""
    visit.settle()
    return np.asarray(Image.open(io.BytesIO(visit.page.locator(".stage canvas").screenshot())).convert("RGB")).astype(
        int
    )


def is_liver(picture: np.ndarray) -> np.ndarray:
    """Where the liver's green lies over grey."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (green - red > 25) & (blue - red > 10) & (blue < green)


def is_lesion(picture: np.ndarray) -> np.ndarray:
    """Where the first lesion's orange lies over grey."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (red - green > 50) & (red - blue > 50)


def is_body(picture: np.ndarray) -> np.ndarray:
    return picture.max(axis=-1) > 15


def test_a_scan_is_sent_watched_and_shown(visit: Visit, service: Service):
    choose(visit, service)
    service.pause(0.3)
    job_id = send(visit)
    seen = set()

    def progress() -> bool:
        shown = visit.page.evaluate(
            "[document.querySelector('.steps [data-state=now]')?.dataset.stage,"
            " document.querySelector('.share')?.textContent]"
        )
        seen.add((shown[0], shown[1]))
        return "measure" in {stage for stage, _ in seen}

    until(progress)
    service.pause(0)
    visit.wait_for_pictures()
    stages = [stage for stage, _ in seen if stage]
    assert {"liver", "lesion", "measure"} <= set(stages)
    assert len({share for _, share in seen if share}) >= 3
    # It was told by events, not by asking again and again.
    assert any(url.endswith(f"/jobs/{job_id}/events") for url in visit.requests)
    assert sum(url.endswith(f"/jobs/{job_id}") for url in visit.requests) < 4
    report = service.get(f"/jobs/{job_id}/report.json").json()
    shown = visit.page.locator(".key").inner_text()
    assert f"{report['liver']['volume_ml']:.0f} ml" in shown
    assert visit.page.locator(".lesions tbody tr").count() == report["lesion_count"] == 3


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
        assert f"lesion {lesion['id']}" in visit.page.locator(".readout").inner_text()
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
    before = is_lesion(colours(visit)).sum()
    visit.page.locator("tr[data-lesion='1']").hover()
    assert is_lesion(colours(visit)).sum() < before / 4
    visit.page.mouse.move(5, 5)
    assert is_lesion(colours(visit)).sum() == before


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
    assert links.count() == 7
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
    until(lambda: (_yellow(colours(visit)).sum() > 200) or None, 20)
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


def test_a_file_that_is_no_scan_is_answered_with_what_to_do(visit: Visit, tmp_path):
    photo = tmp_path / "photo.nii.gz"
    photo.write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    visit.open("/")
    visit.page.set_input_files("input[name=file]", photo)
    visit.page.get_by_role("button", name="Segment this scan").click()
    panel = visit.page.get_by_role("alert")
    panel.wait_for()
    assert "the file is a JPEG picture" in panel.inner_text()
    assert "What to do" in panel.inner_text()
    assert "unsupported_format" in panel.inner_text()
    assert visit.page.get_by_role("button", name="Segment this scan").is_enabled()


def test_a_scan_without_a_liver_ends_with_the_reason(visit: Visit, service: Service, tmp_path):
    from app.imaging.nifti import write_volume
    from app.imaging.volume import Volume
    from training.phantom import LIVER_RANGE_HU

    voxels = service.phantom.volume.voxels.copy(order="F")
    voxels[(voxels >= LIVER_RANGE_HU[0]) & (voxels <= LIVER_RANGE_HU[1])] = 30
    write_volume(tmp_path / "ct.nii.gz", Volume(voxels, service.phantom.volume.geometry))
    visit.open("/")
    visit.page.set_input_files("input[name=file]", tmp_path / "ct.nii.gz")
    send(visit)
    panel = visit.page.get_by_role("alert")
    panel.wait_for()
    assert "No liver" in panel.inner_text()
    assert "upper abdomen" in panel.inner_text()


def test_a_running_job_can_be_canceled(visit: Visit, service: Service):
    choose(visit, service)
    service.pause(0.5)
    job_id = send(visit)
    until(lambda: visit.page.locator(".steps [data-state=now]").count())
    visit.page.get_by_role("button", name="Cancel").click()
    visit.page.get_by_role("heading", name="Canceled").wait_for()
    assert service.get(f"/jobs/{job_id}").json()["status"] == "canceled"
    service.pause(0)


def test_a_waiting_job_shows_its_place(visit: Visit, service: Service):
    service.pause(0.5)
    choose(visit, service)
    first = send(visit)
    choose(visit, service)
    second = send(visit)
    until(lambda: "Next in line" in visit.page.locator(".progress-panel").inner_text())
    service.pause(0)
    visit.wait_for_pictures()
    assert {service.get(f"/jobs/{each}").json()["status"] for each in (first, second)} == {"succeeded"}


def test_a_broken_line_is_said_and_mended(visit: Visit, service: Service):
    service.pause(0.5)
    choose(visit, service)
    send(visit)
    until(lambda: visit.page.locator(".steps [data-state=now]").count())
    events = re.compile(r"/events$")
    visit.page.route(events, lambda route: route.abort())
    visit.page.reload()
    visit.page.locator(".lost").get_by_text("Connection lost").wait_for()
    visit.page.unroute(events)
    service.pause(0)
    visit.wait_for_pictures()


def test_the_speed_of_an_upload_is_shown_and_it_can_be_stopped(visit: Visit, tmp_path):
    visit.open("/")
    speed = visit.page.context.new_cdp_session(visit.page)
    speed.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 3_000_000}
    speed.send("Network.emulateNetworkConditions", slow)
    large = tmp_path / "large.nii"
    large.write_bytes(bytes(30_000_000))
    visit.page.set_input_files("input[name=file]", large)
    visit.page.get_by_role("button", name="Segment this scan").click()
    said = visit.page.locator(".upload-said")
    until(lambda: re.search(r"\d+ % · .* of 30.0 MB · .*MB/s", said.inner_text()))
    visit.page.locator(".upload-progress").get_by_role("button", name="Cancel").click()
    visit.page.locator(".upload-status").get_by_text("Upload canceled").wait_for()


def test_the_list_filters_and_finds_and_links(visit: Visit, service: Service):
    job = service.send()
    visit.open("/")
    row = visit.page.locator(f"a[href='/view/{job['id']}']")
    row.wait_for()
    visit.page.get_by_label("State").select_option("failed")
    until(lambda: row.count() == 0)
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
