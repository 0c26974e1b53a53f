"""A report for people: one page of HTML that needs no other file, and the lesions as CSV. Made to be printed."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from app.agreement import Agreement
from app.followup.result import FollowUp
from app.followup.shown import HEAD, follow_up_csv, lines, rows
from app.imaging.atomic import write_text
from app.report import LesionReport, Report

NOTICE = "Research use only. Not a medical device; not for diagnosis or treatment."

PAGE_STYLE = """
@page { size: A4; margin: 11mm 12mm }
* { box-sizing: border-box }
body { font: 11.5px/1.35 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: #16202a; background: #fff;
  max-width: 210mm; margin: 0 auto; padding: 10mm 12mm; font-variant-numeric: tabular-nums }
header { display: flex; justify-content: space-between; align-items: baseline; border-bottom: 2px solid #0b7285 }
h1 { font-size: 20px; margin: 0 0 4px; letter-spacing: -.01em } h1 span { color: #0b7285 }
h2 { font-size: 11px; text-transform: uppercase; letter-spacing: .06em; color: #51606e; margin: 9px 0 2px }
.key { display: flex; gap: 10px; margin: 9px 0 }
.key div { flex: 1; border: 1px solid #d5dde3; border-radius: 6px; padding: 4px 10px }
.key b { display: block; font-size: 19px } .key span, .small { color: #51606e; font-size: 11px }
img { display: block; width: 100%; border-radius: 6px; background: #000 }
table { border-collapse: collapse; width: 100% }
th { font-weight: 600; color: #51606e; text-align: right; white-space: nowrap }
th, td { padding: 1.5px 8px; border-bottom: 1px solid #e4eaee; text-align: right }
th:first-child, td:first-child { text-align: left; padding-left: 2px }
th:last-child, td:last-child { padding-right: 2px }
.columns { display: flex; gap: 22px } .columns > div { flex: 1; min-width: 0 }
p { margin: 2px 0 }
ul { margin: 2px 0; padding-left: 16px }
.mono { font-family: ui-monospace, monospace; font-size: 9.5px; word-break: break-all }
footer { margin-top: 8px; padding-top: 4px; border-top: 1px solid #d5dde3; font-weight: 600 }
a { color: #0b7285 }
.scans { margin-top: 10px } .scans td, .scans th { padding: 4px 8px } .scans .said { text-align: left; color: #51606e }
tr, .key, img { break-inside: avoid }
@media print { body { padding: 0 1px; max-width: none }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(PAGE_STYLE.encode()).digest()).decode()

#: No script at all, no address but the picture within the page itself.
SHEET_POLICY = (
    f"default-src 'none'; img-src data:; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_AXES = ("right", "anterior", "superior")
_COLUMNS = (
    *("id", "volume_ml", "share_of_liver", "longest_axial_diameter_mm", "perpendicular_diameter_mm"),
    *("right_mm", "anterior_mm", "superior_mm", "mean_hu", "touches_border"),
    *("volume_low_ml", "volume_high_ml", "mean_probability", "sphericity", "capsule_distance_mm"),
    *("sd_hu", "p5_hu", "median_hu", "p95_hu", "axial_slice"),
    *(f"{chord}_{end}_{axis}_mm" for chord in ("longest", "perpendicular") for end in "ab" for axis in _AXES),
)

#: The most lesions that are listed; the page says how many more there are.
MOST_ROWS = 10


def write_sheet(folder: Path) -> Path:
    """Write sheet.html beside the report.json and preview.png of `folder`; returns where it is. Raises OSError.

    If it was compared with a prior, follow_up.csv too.
    """
    report = Report.model_validate_json((folder / "report.json").read_text("utf-8"))
    path = folder / "sheet.html"
    write_text(path, sheet_html(report, (folder / "preview.png").read_bytes()))
    if report.follow_up is not None:
        write_text(folder / "follow_up.csv", follow_up_csv(report.follow_up))
    return path


def sheet_html(report: Report, preview_png: bytes, *, job_id: str = "", made_at: datetime | None = None) -> str:
    """One self-contained page: key slices, volumes, lesions, agreement, findings, networks, the research line."""
    picture = base64.b64encode(preview_png).decode()
    when = "" if made_at is None else f" · {made_at:%Y-%m-%d %H:%M} UTC"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hepaseg report</title><style>{PAGE_STYLE}</style></head><body>
<header><h1><span>Hepaseg</span> liver report</h1><span class="small">{_text(job_id)}{when}</span></header>
{_key_numbers(report)}
<img alt="Key slices with the outlines of liver and lesions" src="data:image/png;base64,{picture}">
<h2>Lesions</h2>{_lesions(report)}
{_follow_up(report.follow_up)}{_agreement(report.agreement)}
<div class="columns"><div><h2>Quality</h2>{_findings(report)}</div>
<div><h2>Scan and networks</h2>{_scan(report)}{_networks(report)}</div></div>
<footer>{NOTICE}</footer>
</body></html>
"""


def lesions_csv(report: Report) -> str:
    """The lesions with a head line; decimal points, lengths in mm, volumes in ml, RAS+ centroids."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for lesion in report.lesions:
        share = _share(lesion, report)
        diameters = lesion.longest_axial_diameter_mm, lesion.perpendicular_diameter_mm
        where = *lesion.centroid_mm, lesion.mean_hu, str(lesion.touches_border).lower()
        writer.writerow((lesion.id, lesion.volume_ml, share, *diameters, *where, *_further(lesion)))
    return out.getvalue()


def _further(lesion: LesionReport) -> Iterator[float | None]:
    """Empty cells for what an older version did not measure."""
    yield from lesion.volume_interval_ml or (None, None)
    yield from (lesion.mean_probability, lesion.sphericity, lesion.capsule_distance_mm)
    yield from (lesion.sd_hu, lesion.p5_hu, lesion.median_hu, lesion.p95_hu, lesion.axial_slice)
    for chord in (lesion.longest_ends_mm, lesion.perpendicular_ends_mm):
        yield from (None,) * 6 if chord is None else (*chord[0], *chord[1])


def _share(lesion: LesionReport, report: Report) -> float:
    return lesion.volume_ml / report.liver.volume_ml if report.liver.volume_ml else 0.0


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>"


def _key_numbers(report: Report) -> str:
    mean = "–" if report.liver.mean_hu is None else f"{report.liver.mean_hu:.0f} HU"
    cut = ", may be cut off" if report.liver.touches_border else ""
    boxes = (
        (f"{report.liver.volume_ml:.0f} ml", f"liver, mean {mean}{cut}"),
        (str(report.lesion_count), "lesions" if report.lesion_count != 1 else "lesion"),
        (f"{report.lesion_volume_ml:.2f} ml", "lesions together"),
        (f"{100 * report.lesion_burden:.2f} %", "of the liver is lesion"),
    )
    shown = "".join(f"<div><b>{number}</b><span>{_text(what)}</span></div>" for number, what in boxes)
    return f'<div class="key">{shown}</div>'


def _lesions(report: Report) -> str:
    if not report.lesions:
        return "<p>No lesion was found. That does not mean that there is none.</p>"
    head = ("Lesion", "ml", "% of liver", "longest mm", "across mm", "mean HU", "prob. %", "R, A, S mm", "at edge")
    rows = [
        (
            str(lesion.id),
            f"{lesion.volume_ml:.2f}",
            f"{100 * _share(lesion, report):.2f}",
            f"{lesion.longest_axial_diameter_mm:.1f}",
            f"{lesion.perpendicular_diameter_mm:.1f}",
            f"{lesion.mean_hu:.0f}",
            "–" if lesion.mean_probability is None else f"{100 * lesion.mean_probability:.0f}",
            ", ".join(f"{x:.0f}" for x in lesion.centroid_mm),
            "yes" if lesion.touches_border else "no",
        )
        for lesion in report.lesions[:MOST_ROWS]
    ]
    more = len(report.lesions) - MOST_ROWS
    rest = f"and {more} smaller · " if more > 0 else ""
    return f'{_table(head, rows)}<p class="small">{rest}prob.: what the network said on average; not calibrated</p>'


def _follow_up(found: FollowUp | None) -> str:
    if found is None:
        return ""
    shown = list(rows(found))
    more = len(shown) - MOST_ROWS
    table = _table(HEAD, shown[:MOST_ROWS]) if shown else ""
    rest = f'<p class="small">and {more} more, all in follow_up.csv</p>' if more > 0 else ""
    said = "".join(f'<p class="small">{_text(line)}</p>' for line in lines(found))
    return f"<h2>Since the prior scan</h2>{table}{rest}{said}"


def _agreement(agreement: Agreement | None) -> str:
    if agreement is None:
        return ""
    rows = []
    for name, mask in (("Liver", agreement.liver), ("Lesions", agreement.lesion)):
        shares = (_number(value, "{:.3f}") for value in (mask.dice, mask.voe, mask.rvd))
        rows.append((name, *shares, *(_number(mm, "{:.2f}") for mm in (mask.assd_mm, mask.hd95_mm))))
    found = agreement.lesion.by_lesion
    return (
        "<h2>Against the reference</h2>"
        + _table(("", "Dice", "VOE", "RVD", "ASSD mm", "HD95 mm"), rows)
        + f'<p class="small">{found.found_count} of {found.reference_count} lesions of the reference were found; '
        f"{found.true_count} of {found.predicted_count} that were found are in the reference.</p>"
    )


def _number(value: float | None, how: str) -> str:
    return "–" if value is None else how.format(value)


def _findings(report: Report) -> str:
    if not report.quality.findings:
        return "<p>Nothing conspicuous.</p>"
    return "<ul>" + "".join(f"<li>{_text(finding.detail)}</li>" for finding in report.quality.findings) + "</ul>"


def _scan(report: Report) -> str:
    scan = report.scan
    shape = " × ".join(map(str, scan.shape))
    spacing = " × ".join(f"{mm:.2f}" for mm in scan.spacing_mm)
    grid = f"{shape} voxels of {spacing} mm, {_text(scan.orientation)}"
    return f'<p>{grid}<br><span class="mono">{_text(scan.sha256)}</span></p>'


def _networks(report: Report) -> str:
    said = (f"{task}: {model.name} {model.version} ({model.sha256[:12]})" for task, model in report.models.items())
    return f'<p class="small">{_text(" · ".join(said))}</p>'
