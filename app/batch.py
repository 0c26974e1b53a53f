"""`hepaseg segment`: many scans through one pipeline, two at a time, none of which stops the rest."""

from __future__ import annotations

import csv
import io
import json
import threading
import webbrowser
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from app.console import Bars, show_report
from app.errors import HepasegError, InvalidPrior, InvalidReference, InvalidRequest
from app.imaging.atomic import write_text
from app.jobs.memory import needed_for, room_bytes
from app.lanes import in_lanes, until
from app.overview import write_overview
from app.scans import NIFTI_ENDINGS, files_below, is_scan, said_of, stem_of
from app.sheet import write_sheet

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from app.inference.cascade import Cascade
    from app.pipeline import Progress, Request
    from app.report import Report
    from app.settings import Settings


@dataclass(frozen=True)
class Case:
    """One scan to segment: its name, its file, its reference if there is one, and the folder for its results."""

    name: str
    scan: Path
    reference: Path | None
    output: Path
    series_uid: str | None = None
    prior: Path | None = None
    prior_report: Path | None = None


def find_cases(
    inputs: Iterable[Path],
    reference: Path | None,
    output: Path,
    series_uid: str | None = None,
    prior: Path | None = None,
) -> list[Case]:
    """The cases that files and folders stand for.

    A folder stands for the scans anywhere below it, known by content and sorted by name, also those that cannot be
    used; other files in it are passed over. A file that was named is always a case.
    Raises InvalidRequest if nothing is found or two scans would share an output folder.
    """
    named = [(stem_of(path.name), path) for path in inputs if not path.is_dir()]
    found = [
        (str(path.relative_to(folder).with_name(stem_of(path.name))), path)
        for folder in inputs
        if folder.is_dir()
        for path in files_below(folder, output)
        if is_scan(path)
    ]
    scans = named + found
    if not scans:
        raise InvalidRequest("There is no scan (NIfTI, or DICOM in a zip) in what was given.")
    names = [name for name, _ in scans]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidRequest(f"Two scans have the same name and would share an output folder: {', '.join(twice)}.")
    single = len(scans) == 1
    if not single and reference is not None and not reference.is_dir():
        raise InvalidRequest("For several scans, --reference names a folder with one label file of the same name each.")
    if not single and prior is not None:
        raise InvalidRequest("--prior is about one scan, and these are several.")
    before = prior_files(prior)
    cases = [
        Case(name, scan, _reference_of(scan, reference), output if single else output / name, series_uid, *before)
        for name, scan in scans
    ]
    for case in cases:
        _keep_what_was_given(case)
    return cases


def segment_all(cases: list[Case], output: Path, settings: Settings, *, quiet: bool = False, show: bool = False) -> int:
    """Segment each case with the same networks; returns how many failed, having said why for each.

    A run over several that was ended goes on where it was: what stands is not made again (`app.standing`). For several,
    `output/summary.json`, `.csv` and `.html` say what became of each. show: open the page in a browser at the end, of
    one scan its sheet, of several the summary.
    """
    from app.inference.cascade import Cascade
    from app.inference.manifest import load_networks

    runtime, signer = settings.runtime(), settings.signer()
    cascade = Cascade(load_networks(settings.models_dir, runtime), runtime)
    console = Console(stderr=True)
    rows: dict[int, dict[str, object]] = {}
    with Bars(console, quiet=quiet) as bars:

        def work(place: int, case: Case, stop: threading.Event) -> _Outcome:
            title = case.name if len(cases) == 1 else f"{place + 1}/{len(cases)} {case.name}"
            with bars.bar(title) as tell:
                request = _request(case, settings, signer)
                return _attempt(request, cascade, until(stop, tell), again=len(cases) == 1)

        def needs(case: Case) -> int:
            return needed_for(case.scan, settings.limits(), case.series_uid)

        with closing(in_lanes(cases, work, needs, room_bytes(settings.memory_bytes))) as ended:
            for place, outcome in ended:
                rows[place] = _row(cases[place], outcome.found)
                with bars.aside():
                    _tell(console, cases[place], outcome, quiet=quiet)
    failed = sum(each["status"] == "failed" for each in rows.values())
    if len(cases) > 1:
        _write_summary(output, [rows[place] for place in sorted(rows)])
        console.print(f"{len(cases) - failed} of {len(cases)} scans segmented, {failed} failed.")
    page = output / ("sheet.html" if len(cases) == 1 else "summary.html")
    if show and page.exists() and not webbrowser.open(page.resolve().as_uri()):
        console.print(f"There is no browser here that could be opened. The page: {page}", markup=False, soft_wrap=True)
    return failed


class _Outcome(NamedTuple):
    """What became of a case, and whether that was so before."""

    found: Report | HepasegError
    stood: bool = False


def _attempt(request: Request, cascade: Cascade, tell: Progress, *, again: bool) -> _Outcome:
    """again: whether to segment what was segmented before."""
    from app.pipeline import run
    from app.standing import standing

    before = None if again else standing(request, cascade)
    try:
        request.output.parent.mkdir(parents=True, exist_ok=True)
        found = before or run(request, cascade, tell)
        write_sheet(request.output)
    except HepasegError as error:
        return _Outcome(error)
    except OSError as error:
        given = request.scan, request.reference, request.prior, request.prior_report
        return _Outcome(said_of(error, given, request.output))
    return _Outcome(found, stood=before is not None)


def _row(case: Case, found: Report | HepasegError) -> dict[str, object]:
    if isinstance(found, HepasegError):
        return {"name": case.name, "status": "failed", "code": found.code, "detail": found.detail}
    return {"name": case.name, "status": "succeeded", **row_of(found)}


def _tell(console: Console, case: Case, outcome: _Outcome, *, quiet: bool) -> None:
    if isinstance(outcome.found, HepasegError):
        console.print(f"{case.name}: {sentence(outcome.found)}", style="red", markup=False, soft_wrap=True)
    elif outcome.stood:
        console.print(f"{case.name}: as before", markup=False, highlight=False, soft_wrap=True)
    elif not quiet:
        _show(case, outcome.found)


def _request(case: Case, settings: Settings, signer: Ed25519PrivateKey | None) -> Request:
    from app.pipeline import Request

    return Request(
        case.scan,
        case.reference,
        case.output,
        settings.limits(),
        case.series_uid,
        settings.dicom_form(),
        settings.split_lesions,
        signer,
        case.prior,
        case.prior_report,
    )


def _show(case: Case, report: Report) -> None:
    shown = Console()
    shown.print(case.name, style="bold", markup=False)
    show_report(shown, report)
    shown.print(f"Written to {case.output}", markup=False, soft_wrap=True)


def sentence(error: HepasegError) -> str:
    """An error as people read it, with its code for those who look it up."""
    return f"{error.title}: {error.detail} [{error.code}]"


def row_of(report: Report) -> dict[str, object]:
    """One scan as a row of a summary: volumes in ml and, against a reference, Dice and lesions found."""
    row: dict[str, object] = {
        "liver_ml": report.liver.volume_ml,
        "lesion_count": report.lesion_count,
        "lesion_ml": report.lesion_volume_ml,
        "verdict": report.quality.verdict,
    }
    if report.agreement is not None:
        matches = report.agreement.lesion.by_lesion
        row |= {"liver_dice": report.agreement.liver.dice, "lesion_dice": report.agreement.lesion.dice}
        row |= {"lesions_found": matches.found_count, "lesions_in_reference": matches.reference_count}
        row |= {"false_marks": matches.predicted_count - matches.true_count}
    return row


def _write_summary(folder: Path, rows: list[dict[str, object]]) -> None:
    """summary.json, summary.csv and summary.html, a row per scan. Raises InvalidRequest or StorageFull."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_text(folder / "summary.json", json.dumps(rows, indent=2) + "\n")
        write_text(folder / "summary.csv", table.getvalue())
        write_overview(folder / "summary.html", rows)
    except OSError as error:
        raise said_of(error, (), folder) from error


def _keep_what_was_given(case: Case) -> None:
    """Raise InvalidRequest if a result would take the place of the scan or its reference."""
    from app.pipeline import RESULTS

    for written in (case.output / name for name in RESULTS):
        for given in (case.scan, case.reference, case.prior, case.prior_report):
            if given is not None and written.exists() and written.samefile(given):
                raise InvalidRequest(f"{given} would be overwritten by a result: choose another output folder.")


def prior_files(prior: Path | None) -> tuple[Path | None, Path | None]:
    """The labels of a prior and the report beside them: `prior` is a folder of results, or the labels alone.

    Raises InvalidPrior if the folder has no labels.
    """
    if prior is None or not prior.is_dir():
        return prior, None
    labels, report = prior / "labels.nii.gz", prior / "report.json"
    if not labels.exists():
        raise InvalidPrior(f"{prior} has no labels.nii.gz: --prior is the output folder of an earlier scan, or labels.")
    return labels, report if report.exists() else None


def _reference_of(scan: Path, reference: Path | None) -> Path | None:
    """The reference itself, or the file in that folder with the scan's name, or LiTS' name for it."""
    if reference is None or not reference.is_dir():
        return reference
    stem = stem_of(scan.name)
    names = [stem, stem.replace("volume-", "segmentation-", 1)]
    for candidate in (reference / (name + ending) for name in names for ending in NIFTI_ENDINGS):
        if candidate.exists():
            return candidate
    raise InvalidReference(f"The reference folder has no label file named {stem}.nii[.gz].")
