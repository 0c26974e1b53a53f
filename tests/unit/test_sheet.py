"""The page to print and the table of lesions: everything the report says, nothing that could run or call out."""

import base64
import csv
import hashlib
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from app.preview import write_preview
from app.quality import Finding, Quality
from app.report import ModelReport, Report, ScanReport, Timings, measure
from app.sheet import MOST_ROWS, SHEET_POLICY, lesions_csv, sheet_html, write_sheet
from training.phantom import abdomen

PICTURE = b"\x89PNG and the rest"


@pytest.fixture(scope="module")
def phantom():
    return abdomen(seed=1, shape=(64, 56, 24), spacing_mm=(5.0, 5.5, 8.0), noise_hu=0)


@pytest.fixture(scope="module")
def report(phantom) -> Report:
    measured = measure(phantom.truth, phantom.volume)
    geometry = phantom.volume.geometry
    return Report(
        scan=ScanReport(
            sha256="ab" * 32, shape=geometry.shape, spacing_mm=geometry.spacing_mm, orientation=geometry.axis_codes
        ),
        models={"liver": ModelReport(name="<script>alert(1)</script>", version="1.2.3", sha256="cd" * 32)},
        liver=measured.liver,
        lesions=measured.lesions,
        quality=Quality(findings=(Finding(code="oblique", severity="warn", detail="Tilted by 3 & more degrees."),)),
        timings_s=Timings(),
    )


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_sheet_says_what_the_report_says(report):
    page = sheet_html(report, PICTURE, job_id="abc", made_at=datetime(2026, 11, 23, 8, 30, tzinfo=UTC))
    assert f"{report.liver.volume_ml:.0f} ml" in page
    assert f"{100 * report.lesion_burden:.2f} %" in page
    for lesion in report.lesions:
        assert f"<td>{lesion.volume_ml:.2f}</td>" in page
        assert f"<td>{lesion.longest_axial_diameter_mm:.1f}</td>" in page
    assert "Tilted by 3 &amp; more degrees." in page
    assert "Research use only" in page
    assert "2026-11-23 08:30 UTC" in page
    assert base64.b64encode(PICTURE).decode() in page


def test_the_sheet_runs_nothing_and_calls_nobody(report):
    page = sheet_html(report, PICTURE)
    tags = Tags(page).found
    assert {tag for tag, _ in tags} & {"script", "link", "iframe", "a", "form"} == set()
    assert not any(name.startswith("on") or name == "style" for _, given in tags for name in given)
    assert all(given["src"].startswith("data:image/png;base64,") for tag, given in tags if tag == "img")
    assert "&lt;script&gt;" in page
    style = re.search("<style>(.*?)</style>", page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in SHEET_POLICY
    assert "unsafe" not in SHEET_POLICY


def test_no_lesion_is_not_called_no_disease(report):
    page = sheet_html(report.model_copy(update={"lesions": ()}), PICTURE)
    assert "That does not mean that there is none" in page


def test_of_many_lesions_the_sheet_says_how_many_it_leaves_out(report):
    many = tuple(report.lesions[0].model_copy(update={"id": n}) for n in range(1, 41))
    page = sheet_html(report.model_copy(update={"lesions": many}), PICTURE)
    assert page.count("<tr>") < 20
    assert f"and {40 - MOST_ROWS} smaller " in page


def test_the_table_reads_back_as_the_report(report):
    rows = list(csv.DictReader(io.StringIO(lesions_csv(report))))
    assert len(rows) == len(report.lesions) == 3
    for row, lesion in zip(rows, report.lesions, strict=True):
        assert int(row["id"]) == lesion.id
        assert float(row["volume_ml"]) == lesion.volume_ml
        assert float(row["share_of_liver"]) == lesion.volume_ml / report.liver.volume_ml
        assert tuple(float(row[f"{axis}_mm"]) for axis in ("right", "anterior", "superior")) == lesion.centroid_mm
        assert row["touches_border"] == str(lesion.touches_border).lower()


def test_a_sheet_is_written_beside_the_results_of_the_command(report, phantom, tmp_path):
    (tmp_path / "report.json").write_text(report.model_dump_json())
    write_preview(tmp_path / "preview.png", phantom.volume, phantom.truth)
    path = write_sheet(tmp_path)
    assert path == tmp_path / "sheet.html"
    assert base64.b64encode((tmp_path / "preview.png").read_bytes()).decode() in path.read_text("utf-8")
