"""The page as such: its policy, its weight, its accessibility, its looks on small screens and in the dark."""

import re
from pathlib import Path

import numpy as np
import pytest

from app.imaging.nifti import write_volume
from app.imaging.volume import Geometry, Volume
from app.quality import Finding, Quality
from app.report import Report
from app.sheet import sheet_html
from tests.browser.visits import Service, Visit, until

WEB = Path(__file__).resolve().parent.parent.parent / "app/web"
FIRST_PAGE_KB = 60
RESULT_PAGE_KB = 1100


def serious(visit: Visit) -> list[str]:
    """What axe finds that keeps people out."""
    import axe_playwright_python

    visit.page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = visit.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{each['id']}: {node['html'][:150]} {node['failureSummary'][:300]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Visit, service: Service, scheme):
    job = service.send(service.reference)
    visit.page.emulate_media(color_scheme=scheme)
    visit.open("/")
    until(lambda: visit.page.locator(".list").count())
    assert serious(visit) == []
    visit.page.keyboard.press("?")
    assert serious(visit) == []
    visit.open_result(job)
    visit.page.keyboard.press("d")
    visit.settle()
    assert serious(visit) == []
    visit.open("/view/nothing")
    visit.page.get_by_role("alert").wait_for()
    assert serious(visit) == []


def test_a_job_on_its_way_is_accessible_too(visit: Visit, service: Service):
    service.hold("liver")
    visit.open("/")
    visit.page.set_input_files("input[name=file]", service.scan)
    visit.page.get_by_role("button", name="Segment this scan").click()
    until(lambda: visit.page.locator(".steps [data-state=now]").count())
    found = serious(visit)
    service.release()
    visit.wait_for_pictures()
    assert found == []


def test_the_policy_lets_nothing_in(visit: Visit, service: Service):
    policy = service.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    visit.open("/")
    told = visit.page.evaluate(
        """async () => {
            const heard = [];
            document.addEventListener("securitypolicyviolation", (event) => heard.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.inlineRan = true";
            document.body.append(script);
            const button = document.createElement("button");
            button.setAttribute("onclick", "window.inlineRan = true");
            button.click();
            await fetch("http://127.0.0.1:9/").catch(() => {});
            await new Promise((done) => setTimeout(done, 100));
            return { ran: Boolean(window.inlineRan), heard };
        }"""
    )
    assert told["ran"] is False
    assert {"script-src-elem", "connect-src"} <= set(told["heard"])
    visit.complaints.clear()
    visit.requests.clear()


def test_no_file_of_the_page_has_inline_script_style_or_eval():
    page = (WEB / "index.html").read_text("utf-8")
    assert re.search(r"<script(?![^>]*src=)", page) is None
    assert re.search(r"\son\w+=|\sstyle=|<style", page) is None
    for script in (WEB / "js").glob("*.js"):
        text = script.read_text("utf-8")
        assert re.search(r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text) is None
        assert len(text.splitlines()) <= 250, script.name
        assert re.search(r"https?://", text) is None, script.name


def test_every_documented_error_comes_with_something_to_do():
    docs = WEB.parent.parent / "docs"
    errors = set(re.findall(r"^\| \d{3} \| `(\w+)`", (docs / "http.md").read_text("utf-8"), re.MULTILINE))
    refused = " ".join(re.findall(r"refused,([^|]*)\|", (docs / "pacs.md").read_text("utf-8")))
    errors |= set(re.findall(r"`([a-z_]+)`", refused))
    words = (WEB / "js/words.js").read_text("utf-8")
    advised = set(re.findall(r"^  (\w+):", words[words.index("const ADVICE") :], re.MULTILINE))
    assert len(errors) > 35
    assert errors - advised == set()


def test_the_page_is_light_and_the_viewer_comes_only_with_a_result(visit: Visit, service: Service):
    job = service.send()
    wire = visit.page.context.new_cdp_session(visit.page)
    wire.send("Network.enable")
    received = [0]
    wire.on("Network.loadingFinished", lambda event: received.__setitem__(0, received[0] + event["encodedDataLength"]))
    visit.open("/")
    until(lambda: visit.page.locator(".list").count())
    first_kb = received[0] / 1000
    visit.open_result(job)
    scan_kb = len(service.scan.read_bytes()) / 1000
    whole_kb = received[0] / 1000 - first_kb
    seconds = visit.page.locator(".readout").get_attribute("data-seconds")
    print(f"first page {first_kb:.0f} kB, result {whole_kb:.0f} kB (scan {scan_kb:.0f}), pictures after {seconds} s")  # noqa: T201
    assert first_kb < FIRST_PAGE_KB
    assert not any(
        "niivue" in url for url in visit.requests[: visit.requests.index(service.url + f"/view/{job['id']}")]
    )
    assert whole_kb - scan_kb < RESULT_PAGE_KB


@pytest.mark.parametrize("width", [768, 1024, 1280])
def test_nothing_is_cut_off_on_small_screens(visit: Visit, service: Service, width):
    job = service.send(service.reference)
    visit.page.set_viewport_size({"width": width, "height": 900})
    for path in ("/", f"/view/{job['id']}"):
        visit.open(path)
        visit.settle()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, path
    visit.wait_for_pictures()
    stage = visit.page.locator(".stage").bounding_box()
    assert stage["width"] > 0.55 * width
    assert stage["height"] > 400


def test_the_page_stays_where_its_reader_put_it(visit: Visit, service: Service):
    visit.page.set_viewport_size({"width": 1024, "height": 768})
    visit.open_result(service.send())
    assert visit.page.evaluate("scrollY") == 0
    visit.page.keyboard.press("n")
    assert visit.page.evaluate("scrollY") == 0


def test_all_columns_of_the_lesions_are_seen_even_where_one_is_cut_off(visit: Visit, service: Service, tmp_path):
    whole = service.phantom.volume
    few = np.asfortranarray(whole.voxels[:, :, 18:26])
    write_volume(tmp_path / "few.nii.gz", Volume(few, Geometry(few.shape, whole.geometry.affine)))
    job = service.send(scan=tmp_path / "few.nii.gz")
    visit.open_result(job)
    for lesion in job["report"]["lesions"]:
        said = visit.page.locator(f"tr[data-lesion='{lesion['id']}'] td").last.inner_text()
        assert abs(float(said) - 100 * lesion["mean_probability"]) <= 0.51
    assert visit.page.locator(".lesions .tag", has_text="edge").count() > 0
    table = visit.page.locator(".lesion-scroll")
    assert table.evaluate("(list) => list.scrollWidth - list.clientWidth") <= 0


def test_light_and_dark_follow_the_system_and_the_button(visit: Visit):
    ground = "getComputedStyle(document.body).backgroundColor"
    visit.page.emulate_media(color_scheme="dark")
    visit.open("/")
    dark = visit.page.evaluate(ground)
    visit.page.get_by_role("button", name="Light or dark").click()
    light = visit.page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 200 < sum(map(int, re.findall(r"\d+", light)[:3]))
    visit.page.reload()
    assert visit.page.evaluate(ground) == light


def test_keys_do_nothing_while_somebody_types(visit: Visit):
    visit.open("/")
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("t?g")
    assert visit.page.get_by_label("Search scans").input_value() == "t?g"
    assert visit.page.locator("dialog").count() == 0


def test_the_sheet_is_one_page_that_needs_no_other(visit: Visit, service: Service, tmp_path):
    job = service.send(service.reference)
    visit.open(f"/jobs/{job['id']}/sheet.html")
    text = visit.page.content()
    assert "Research use only" in text
    assert f"{job['report']['liver']['volume_ml']:.0f} ml" in text
    assert "analytic-lesion 0.0.1" in text
    assert visit.page.evaluate("document.scripts.length") == 0
    assert len([url for url in visit.requests if not url.startswith("data:")]) == 1
    assert pages_of(visit) == 1


def pages_of(visit: Visit) -> int:
    """How many pages of A4 the page becomes in print."""
    return len(re.findall(rb"/Type\s*/Page\b", visit.page.pdf(format="A4")))


def test_the_sheet_is_one_page_with_all_that_it_may_have_to_say(visit: Visit, service: Service):
    job = service.send(service.reference)
    report = Report.model_validate(job["report"])
    long = "The liver reaches the bottom and the top of the scan, and the scan is tilted: its volume may be incomplete."
    many = report.model_copy(
        update={
            "lesions": tuple(report.lesions[0].model_copy(update={"id": n}) for n in range(1, 301)),
            "quality": Quality(findings=tuple(Finding(code="x", severity="warn", detail=long) for _ in range(4))),
        }
    )
    picture = service.get(f"/jobs/{job['id']}/preview.png").content
    visit.open("/jobs/nothing")
    visit.page.set_content(sheet_html(many, picture, job_id=job["id"]))
    assert "and 290 smaller" in visit.page.content()
    assert pages_of(visit) == 1
