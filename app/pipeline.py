"""The whole story: read → quality → segment → measure → write. Knows no jobs and no HTTP."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from app import receipt as receipts
from app.agreement import agree
from app.dicom.results import DEFAULT_FORM, DICOM_FILES, STRUCTURES, DicomForm, remarks, write_dicom
from app.errors import NoLiver
from app.followup.compare import follow_up
from app.followup.prior import Prior, read_prior
from app.followup.result import FollowUp
from app.imaging.atomic import write_text
from app.imaging.nifti import write_labels, write_volume
from app.imaging.scan import DEFAULT_LIMITS, Limits, Scan, read_labels, read_scan
from app.imaging.volume import Segmentation
from app.preview import write_preview
from app.quality import Finding, Sample, check_mirrored, check_scan, check_segmentation, explained, once, require
from app.report import Measurements, ModelReport, Report, ScanReport, Task, Timings, lesion_instances, measure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from app.inference.cascade import Cascade
    from app.inference.manifest import Networks
    from app.inference.session import Runtime

#: (stage, fraction of the whole run from 0 to 1). It may raise, which ends the run: this is how a job is canceled.
Progress = Callable[[str, float], None]

#: The stages in order, and the share of the running time that each takes on a CPU, for the progress bar.
STAGES = {"read": 0.05, "quality": 0.02, "liver": 0.4, "lesion": 0.2, "crf": 0.2, "measure": 0.08, "write": 0.05}

#: What a finished run leaves in its output folder.
FILES = ("labels.nii.gz", "liver.nii.gz", "lesions.nii.gz", "preview.png", "report.json", receipts.NAME)
#: What it leaves besides if the scan was a DICOM series: the scan as a viewer can load it, and the results as DICOM
#: (and `STRUCTURES`, if that is wanted).
SERIES_FILES = ("scan.nii.gz", *DICOM_FILES)
#: What `app.sheet` makes of a run's files, for people; it must not outlive them.
PAGES = ("sheet.html", "follow_up.csv")
#: All that a run may leave.
RESULTS = frozenset({*FILES, *SERIES_FILES, STRUCTURES})


@dataclass(frozen=True)
class Request:
    """scan: the CT. reference: labels 0, 1, 2 on its grid, or None. output: the folder for `FILES`.

    prior, prior_report: the labels of an earlier scan to compare with, and the report.json that was written with them.
    series_uid: which series of a zip, or None if there is one. dicom: how results are written as DICOM.
    split_lesions: whether lesions that touch count as several where a neck lies between them.
    signing_key: what the receipt is signed with, if it is.
    """

    scan: Path
    reference: Path | None
    output: Path
    limits: Limits = DEFAULT_LIMITS
    series_uid: str | None = None
    dicom: DicomForm = DEFAULT_FORM
    split_lesions: bool = False
    signing_key: Ed25519PrivateKey | None = field(default=None, repr=False)
    prior: Path | None = None
    prior_report: Path | None = None


def run(request: Request, cascade: Cascade, on_progress: Progress = lambda _stage, _fraction: None) -> Report:
    """Segment one scan, measure it, write `FILES`, of a DICOM series `SERIES_FILES` too; the report is written last.

    Raises InputError for whatever the sender can mend, and whatever `on_progress` raises.
    """
    clock = StageClock(on_progress)
    clock.enter("read")
    scan = read_scan(request.scan, request.limits, request.series_uid)
    reference = None if request.reference is None else read_labels(request.reference, scan.volume.geometry)
    prior = _read_prior(request)
    clock.enter("quality")
    sample = Sample.of(scan.volume)
    before = check_scan(scan.volume, sample)
    require(before)
    try:
        segmentation = replace(cascade.segment(scan.volume, clock.within), split_lesions=request.split_lesions)
    except NoLiver as error:
        raise explained(error, *before.findings, *_in_the_mirror(scan, cascade, 0.0)) from None
    clock.enter("measure")
    measured = measure(segmentation, scan.volume)
    agreement = None if reference is None else agree(segmentation, reference)
    compared = None if prior is None else follow_up(segmentation, prior, lambda share: clock.within("measure", share))
    mirrored = _in_the_mirror(scan, cascade, measured.liver.volume_ml)
    after = (*check_segmentation(scan.volume, segmentation, sample), *mirrored)
    clock.enter("write")
    _clear(request)
    report = Report(
        scan=_describe(scan),
        models=identities(cascade.networks),
        liver=measured.liver,
        lesions=measured.lesions,
        lesions_split=request.split_lesions,
        agreement=agreement,
        follow_up=compared,
        quality=once(*_remarks(scan, measured), *before.findings, *after, *_not_compared(compared)),
        timings_s=clock.timings(),
    )
    _write_images(request, scan, segmentation)
    if scan.dicom is not None:
        write_volume(request.output / "scan.nii.gz", scan.volume)
        write_dicom(request.output, scan.dicom, segmentation, report, request.dicom)
    report = report.model_copy(update={"timings_s": clock.timings()})
    _write_report(request, report, cascade.runtime)
    return report


class StageClock:
    """Turns the stages of one run into progress of the whole and into seconds per stage."""

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self._entered: dict[str, float] = {}
        self._before = {stage: sum(list(STAGES.values())[:n]) for n, stage in enumerate(STAGES)}

    def enter(self, stage: str) -> None:
        """A stage begins; the one before it ends."""
        self.within(stage, 0.0)

    def within(self, stage: str, fraction: float) -> None:
        """A stage is `fraction` (0..1) done."""
        self._entered.setdefault(stage, time.perf_counter())
        self._on_progress(stage, min(1.0, self._before[stage] + STAGES[stage] * fraction))

    def timings(self) -> Timings:
        """Seconds spent in each stage so far; a stage that did not run took 0."""
        now = time.perf_counter()
        entered = [(stage, self._entered[stage]) for stage in STAGES if stage in self._entered]
        ends = [start for _, start in entered[1:]] + [now]
        spent = {stage: round(end - start, 4) for (stage, start), end in zip(entered, ends, strict=True)}
        # Looking at the grey values is part of reading; the report has no row of its own for it.
        read = spent.get("read", 0.0) + spent.pop("quality", 0.0)
        return Timings(**{**spent, "read": round(read, 4)}, total=round(now - entered[0][1], 4))


def _clear(request: Request) -> None:
    """Make the folder, and take out what a run before left there, its report first: without it nothing looks whole."""
    # Not its parents: the folder of a job that was erased meanwhile stays away.
    request.output.mkdir(exist_ok=True)
    given = [path for path in (request.scan, request.reference) if path is not None]
    for path in (request.output / name for name in ("report.json", *sorted(RESULTS - {"report.json"}), *PAGES)):
        if path.exists() and not any(path.samefile(one) for one in given):
            path.unlink()


def _read_prior(request: Request) -> Prior | None:
    if request.prior is None:
        return None
    return read_prior(request.prior, request.prior_report, request.limits, split_lesions=request.split_lesions)


def _in_the_mirror(scan: Scan, cascade: Cascade, liver_ml: float) -> tuple[Finding, ...]:
    return check_mirrored(liver_ml, cascade.mirrored_ml(scan.volume))


def _not_compared(compared: FollowUp | None) -> list[Finding]:
    """That a prior was sent, but nothing can be said, as a finding."""
    if compared is None or compared.obstacle is None:
        return []
    return [Finding(code=compared.obstacle.code, severity="warn", detail=compared.obstacle.detail)]


def _write_images(request: Request, scan: Scan, segmentation: Segmentation) -> None:
    geometry, output = scan.volume.geometry, request.output
    images: dict[str, npt.NDArray[np.uint8] | npt.NDArray[np.uint16]] = {
        "labels": segmentation.labels,
        "liver": segmentation.liver.view(np.uint8),
        "lesions": lesion_instances(segmentation),
    }
    for name, labels in images.items():
        write_labels(output / f"{name}.nii.gz", labels, geometry, header_of=None if scan.dicom else request.scan)
    write_preview(output / "preview.png", scan.volume, segmentation)


def _write_report(request: Request, report: Report, runtime: Runtime) -> None:
    """receipt.json, then report.json, which is last: with it the results are whole."""
    text = report.model_dump_json(indent=2) + "\n"
    outputs = receipts.sums(request.output, RESULTS)
    receipt = receipts.Receipt(
        made_at=receipts.now(),
        scan=report.scan.sha256,
        reference=receipts.sum_of(request.reference),
        prior=None if report.follow_up is None else report.follow_up.prior.labels_sha256,
        prior_report=None if report.follow_up is None else report.follow_up.prior.report_sha256,
        networks=report.models,
        software=receipts.software(),
        options=options_of(request, runtime),
        verdict=report.quality.verdict,
        findings=tuple(found.code for found in report.quality.findings),
        timings_s=report.timings_s,
        outputs=outputs | {"report.json": hashlib.sha256(text.encode()).hexdigest()},
        report_sha256=receipts.report_sha256(json.loads(text)),
    )
    signed = receipts.signed(receipt, request.signing_key)
    write_text(request.output / receipts.NAME, signed.model_dump_json(indent=2) + "\n")
    write_text(request.output / "report.json", text)


def options_of(request: Request, runtime: Runtime) -> receipts.Options:
    """What the receipt says of how an answer was asked for."""
    return receipts.Options(
        provider=runtime.provider,
        precision=runtime.precision,
        crf_backend=runtime.crf_backend,
        split_lesions=request.split_lesions,
        seg_kind=request.dicom.seg_kind,
        rtstruct=request.dicom.rtstruct,
        series_uid=request.series_uid,
        threads=runtime.cores,
        batch=runtime.slices,
    )


def _describe(scan: Scan) -> ScanReport:
    geometry = scan.volume.geometry
    return ScanReport(
        sha256=scan.sha256,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.axis_codes,
    )


def identities(networks: Networks) -> dict[Task, ModelReport]:
    """Which networks these are."""
    return {
        network.card.task: ModelReport(name=network.card.name, version=network.card.version, sha256=network.sha256)
        for network in networks
    }


def _remarks(scan: Scan, measured: Measurements) -> list[Finding]:
    """What the reader had to decide about the file, and what DICOM results leave out, as findings."""
    noted = [Finding(code=note.code, severity="warn", detail=note.detail) for note in scan.notes]
    return noted if scan.dicom is None else [*noted, *remarks(len(measured.lesions))]
