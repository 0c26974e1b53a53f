"""A pipeline small enough to run in a moment, with the real readers and writers, and scans for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from app.dicom.results import DEFAULT_FORM, DicomForm, write_dicom
from app.imaging.nifti import write_labels, write_volume
from app.imaging.scan import Scan, read_labels, read_scan
from app.imaging.volume import Geometry, Segmentation, Volume
from app.jobs.job import Notice
from app.jobs.lease import Progress
from app.jobs.worker import Work
from app.quality import Quality
from app.report import ModelReport, Report, ScanReport, Timings, measure

STAGES = ("read", "quality", "liver", "lesion", "crf", "measure", "write")
LIVER_HU, LESION_HU = 100, 40
CARDS = {task: {"name": f"tiny-{task}", "version": "1.0.0", "sha256": "0" * 64} for task in STAGES[2:5]}


def in_silence(stage: str, progress: float) -> None:
    """Tell nobody."""


def run(work: Work, tell: Progress, form: DicomForm = DEFAULT_FORM) -> Sequence[Notice]:
    """Label what has the grey value of liver or of lesion; write the five files."""
    for n, stage in enumerate(STAGES):
        tell(stage, n / len(STAGES))
        if stage == "read":
            scan = read_scan(work.scan, series_uid=work.series_uid)
            if work.reference is not None:
                read_labels(work.reference, scan.volume.geometry)
        if stage == "write":
            write(work, scan, form)
    return [Notice(code="thick_slices", detail="The slices are thick.")]


def write(work: Work, scan: Scan, form: DicomForm) -> None:
    voxels, geometry = scan.volume.voxels, scan.volume.geometry
    liver, lesion = voxels == LIVER_HU, voxels == LESION_HU
    images = {
        "labels": (liver + 2 * lesion).astype(np.uint8),
        "liver": (liver | lesion).astype(np.uint8),
        "lesions": lesion.astype(np.uint16),
    }
    for name, labels in images.items():
        path = work.output / f"{name}.nii.gz"
        write_labels(path, np.asfortranarray(labels), geometry, header_of=None if scan.dicom else work.scan)
    Image.new("L", (4, 4)).save(work.output / "preview.png")
    segmentation = Segmentation(images["labels"], geometry)
    measured = measure(segmentation, scan.volume)
    report = Report(
        scan=ScanReport(
            sha256=scan.sha256,
            shape=geometry.shape,
            spacing_mm=geometry.spacing_mm,
            orientation=geometry.axis_codes,
        ),
        models={task: ModelReport(**card) for task, card in CARDS.items()},
        liver=measured.liver,
        lesions=measured.lesions,
        quality=Quality(findings=()),
        timings_s=Timings(),
    )
    if scan.dicom is not None:
        write_volume(work.output / "scan.nii.gz", scan.volume)
        write_dicom(work.output, scan.dicom, segmentation, report, form)
    (work.output / "report.json").write_text(report.model_dump_json())


def save_scan(path: Path, shape: tuple[int, int, int] = (24, 20, 10)) -> Path:
    """A block of liver with a lesion in it, in air, on an anisotropic and asymmetric grid."""
    nib.save(nib.Nifti1Image(volume(shape).voxels, affine()), path)
    return path


def volume(shape: tuple[int, int, int] = (24, 20, 10)) -> Volume:
    """The same block as Hounsfield units, for DICOM series."""
    voxels = np.full(shape, -1000, np.int16, order="F")
    voxels[4:16, 4:12, 2:8] = LIVER_HU
    voxels[6:9, 6:9, 3:5] = LESION_HU
    return Volume(voxels, Geometry(voxels.shape, affine()))


def save_reference(path: Path, shape: tuple[int, int, int] = (24, 20, 10)) -> Path:
    labels = np.zeros(shape, np.uint8)
    labels[4:16, 4:12, 2:8] = 1
    nib.save(nib.Nifti1Image(labels, affine()), path)
    return path


def affine() -> np.ndarray:
    return np.array([[-1.5, 0, 0, 10], [0, -1.5, 0, 20], [0, 0, 3.0, -30], [0, 0, 0, 1]])
