"""Sending a scan and watching it: every way it can go, and what is said when it goes wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from app.imaging.nifti import write_volume
from app.imaging.volume import Volume
from tests.browser.visits import LARGEST_BYTES, Service, Visit, until

if TYPE_CHECKING:
    from playwright.sync_api import Locator


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


def test_a_scan_is_sent_watched_and_shown(visit: Visit, service: Service):
    choose(visit, service)
    service.hold("read")
    job_id = send(visit)
    shares = []
    for stage in ("read", "liver", "lesion", "measure"):
        service.hold(stage)
        until(lambda stage=stage: visit.page.locator(f".steps [data-state=now][data-stage={stage}]").count())
        shares.append(int(visit.page.locator(".share").inner_text().removesuffix(" %")))
        assert visit.page.title().startswith(f"{shares[-1]} %")
    service.release()
    visit.wait_for_pictures()
    assert shares == sorted(set(shares))
    # It was told by events, not by asking again and again.
    assert any(url.endswith(f"/jobs/{job_id}/events") for url in visit.requests)
    assert sum(url.endswith(f"/jobs/{job_id}") for url in visit.requests) < 4
    report = service.get(f"/jobs/{job_id}/report.json").json()
    shown = visit.page.locator(".key").inner_text()
    assert f"{report['liver']['volume_ml']:.0f} ml" in shown
    assert visit.page.locator(".lesions tbody tr").count() == report["lesion_count"] == 3


def refused(visit: Visit, file: Path) -> Locator:
    """Send a file that cannot be taken; gives what is said about it."""
    visit.open("/")
    visit.page.set_input_files("input[name=file]", file)
    visit.page.get_by_role("button", name="Segment this scan").click()
    panel = visit.page.get_by_role("alert")
    panel.wait_for()
    return panel


def test_a_file_that_is_no_scan_is_answered_with_what_to_do(visit: Visit, tmp_path):
    photo = tmp_path / "photo.nii.gz"
    photo.write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    panel = refused(visit, photo)
    assert "the file is a JPEG picture" in panel.inner_text()
    assert "What to do" in panel.inner_text()
    assert "unsupported_format" in panel.inner_text()
    assert visit.page.get_by_role("button", name="Segment this scan").is_enabled()


def drop(visit: Visit, where: str, *names: str) -> None:
    """Drop files of these names on an element."""
    visit.page.evaluate(
        """([where, names]) => {
            const dataTransfer = new DataTransfer();
            for (const name of names) dataTransfer.items.add(new File(["content"], name));
            const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            document.querySelector(where).dispatchEvent(event);
            if (!event.defaultPrevented) throw new Error("the browser would have left the page for the file");
        }""",
        [where, list(names)],
    )


def test_a_file_may_be_dropped_on_its_field_or_beside_it(visit: Visit):
    visit.open("/")
    drop(visit, ".drop.lesser", "labels.nii.gz")
    drop(visit, "main", "ct.nii.gz")
    assert visit.page.locator(".drop.filled .drop-title").all_inner_texts() == ["ct.nii.gz", "labels.nii.gz"]
    drop(visit, ".drop", "slice1.dcm", "slice2.dcm")
    visit.page.get_by_role("alert").get_by_text("Pack the series into one .zip").wait_for()
    assert visit.page.get_by_role("button", name="Segment this scan").is_disabled()
    visit.page.get_by_role("button", name="Remove Reference").click()
    assert visit.page.locator(".drop.filled").count() == 0


def test_a_scan_without_a_liver_ends_with_the_reason(visit: Visit, service: Service, tmp_path):
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
    service.hold("liver")
    job_id = send(visit)
    until(lambda: visit.page.locator(".steps [data-state=now]").count())
    visit.page.get_by_role("button", name="Cancel").click()
    visit.page.get_by_role("heading", name="Canceled").wait_for()
    assert service.get(f"/jobs/{job_id}").json()["status"] == "canceled"
    service.release()


def test_a_scan_that_is_erased_in_another_tab_is_not_called_canceled(visit: Visit, service: Service):
    choose(visit, service)
    service.hold("liver")
    job_id = send(visit)
    until(lambda: visit.page.locator(".steps [data-state=now]").count())
    assert service.erase(job_id).status_code == 204
    visit.page.get_by_role("alert").get_by_text("Erased or expired").wait_for()
    assert not visit.page.get_by_role("button", name="Erase…").count()
    service.release()


def test_a_waiting_job_shows_its_place(visit: Visit, service: Service):
    service.hold("liver")
    choose(visit, service)
    first = send(visit)
    choose(visit, service)
    second = send(visit)
    until(lambda: "Next in line" in visit.page.locator(".progress-panel").inner_text())
    service.release()
    visit.wait_for_pictures()
    assert {service.get(f"/jobs/{each}").json()["status"] for each in (first, second)} == {"succeeded"}


def test_a_broken_line_is_said_and_mended(visit: Visit, service: Service):
    service.hold("liver")
    choose(visit, service)
    send(visit)
    until(lambda: visit.page.locator(".steps [data-state=now]").count())
    events = re.compile(r"/events$")
    visit.page.route(events, lambda route: route.abort())
    visit.page.reload()
    visit.page.locator(".lost").get_by_text("Connection lost").wait_for()
    visit.page.unroute(events)
    service.release()
    visit.wait_for_pictures()


def test_a_page_that_nobody_looks_at_leaves_its_line_to_others(visit: Visit, service: Service):
    service.hold("liver")
    choose(visit, service)
    job_id = send(visit)
    until(lambda: visit.page.locator(".steps [data-state=now][data-stage=liver]").count())
    show(visit, "hidden")
    until(lambda: visit.asked(f"/jobs/{job_id}"))
    lines = visit.asked("/events")
    service.hold("measure")
    until(lambda: visit.page.locator(".steps [data-state=now][data-stage=measure]").count())
    assert visit.asked("/events") == lines
    show(visit, "visible")
    until(lambda: visit.asked("/events") == lines + 1)
    service.release()
    visit.wait_for_pictures()


def show(visit: Visit, state: str) -> None:
    """Pretend that the tab comes to the front or goes to the back: a headless browser shows them all."""
    visit.page.evaluate(
        """(state) => {
            Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        state,
    )


def test_more_tabs_than_a_browser_has_lines_for_do_not_stop_each_other(visit: Visit, service: Service):
    service.hold("liver")
    choose(visit, service)
    job_id = send(visit)
    others = [visit.page.context.new_page() for _ in range(7)]
    for page in others:
        page.add_init_script(
            "Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => 'hidden' })"
        )
        page.goto(f"{visit.base}/view/{job_id}")
        until(lambda page=page: page.locator(".steps [data-state=now]").count())
    service.release()
    visit.wait_for_pictures()
    for page in others:
        until(lambda page=page: page.title().startswith("done"))


def test_a_scan_whose_answer_was_lost_is_sent_again_without_a_second_job(visit: Visit, service: Service):
    choose(visit, service)
    before = len(service.get("/jobs?limit=100").json()["jobs"])
    wire = visit.page.context.new_cdp_session(visit.page)
    wire.on(
        "Fetch.requestPaused",
        lambda event: wire.send(
            "Fetch.failRequest", {"requestId": event["requestId"], "errorReason": "ConnectionReset"}
        ),
    )
    # The service has taken the scan and answered; the answer does not arrive.
    wire.send("Fetch.enable", {"patterns": [{"urlPattern": "*/segment", "requestStage": "Response"}]})
    visit.page.get_by_role("button", name="Segment this scan").click()
    panel = visit.page.get_by_role("alert")
    panel.wait_for()
    assert "The connection broke" in panel.inner_text()
    assert "Check that the service runs" in panel.inner_text()
    jobs = service.get("/jobs?limit=100").json()["jobs"]
    assert len(jobs) == before + 1
    wire.send("Fetch.disable")
    assert send(visit) == jobs[0]["id"]
    assert len(service.get("/jobs?limit=100").json()["jobs"]) == before + 1


def test_an_upload_that_is_too_large_is_refused_in_words(visit: Visit, tmp_path):
    huge = tmp_path / "huge.nii"
    with huge.open("wb") as file:
        file.truncate(20 * LARGEST_BYTES)
    panel = refused(visit, huge)
    assert "too_large" in panel.inner_text()
    assert "Crop the scan" in panel.inner_text()


def test_nobody_leaves_a_running_upload_by_accident(visit: Visit, service: Service, tmp_path):
    job = service.send()
    large = tmp_path / "large.nii"
    large.write_bytes(bytes(30_000_000))
    visit.open("/")
    speed = visit.page.context.new_cdp_session(visit.page)
    speed.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 300_000}
    speed.send("Network.emulateNetworkConditions", slow)
    visit.page.set_input_files("input[name=file]", large)
    visit.page.get_by_role("button", name="Segment this scan").click()
    visit.page.locator(".upload-said").wait_for()
    asked = []
    visit.page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    visit.page.locator(f"a[href='/view/{job['id']}']").click()
    until(lambda: asked)
    assert "still being sent" in asked[0]
    assert visit.page.url == visit.base + "/"
    assert visit.page.locator(".upload-progress").count() == 1
    visit.page.once("dialog", lambda dialog: dialog.accept())
    visit.page.locator(f"a[href='/view/{job['id']}']").click()
    visit.page.wait_for_url(f"**/view/{job['id']}")


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
