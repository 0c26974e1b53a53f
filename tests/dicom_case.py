"""A small series with a liver and three lesions, and the report on it, as results are made of."""

from __future__ import annotations

import numpy as np

from app.dicom.results import DicomForm, write_dicom
from app.dicom.rtstruct import build_structures
from app.dicom.seg import build_segmentation, encoded
from app.dicom.segments import segments_of
from app.dicom.sr import build_report
from app.dicom.verification import verify_segmentation, verify_structures
from app.imaging.lesions import number_lesions
from app.imaging.scan import read_scan
from app.imaging.volume import Geometry, Segmentation
from app.quality import Quality
from app.report import ModelReport, Report, ScanReport, Timings, measure
from tests.dicom_files import SHAPE, series_of, small_volume, zipped

SHA256 = {"liver": "1" * 64, "lesion": "2" * 64, "crf": "3" * 64}


def labels() -> np.ndarray:
    """A liver with three lesions, one of them a single voxel at its edge; nothing of it symmetric."""
    found = np.zeros(SHAPE, np.uint8, order="F")
    found[3:25, 4:22, 1:6] = 1
    found[20:30, 10:14, 2:4] = 1
    found[5:9, 6:11, 2:5] = 2
    found[15:17, 12:18, 3] = 2
    found[29, 13, 2] = 2
    return found


def torn_labels() -> np.ndarray:
    """The same with holes, an island in a hole, a hole at the edge of another, and parts that touch at a corner."""
    found = labels()
    found[8:20, 12:21, 3] = 0
    found[11:16, 14:18, 3] = 2
    found[13, 15, 3] = 0
    found[5, 5, 3] = found[21, 8, 3] = found[22, 9, 3] = 0
    found[25:28, 4:10, 4] = [[1, 0, 1, 0, 1, 1]] * 3
    found[25, 22, 5] = 1
    return found


class Case:
    """A series by way of a zip, its segmentation, and the report on it."""

    def __init__(self, folder, volume, files=None, turned=None):
        self.scan = read_scan(zipped(folder, series_of(volume) if files is None else files))
        truth = Segmentation(labels(), Geometry(SHAPE, small_volume().geometry.affine))
        self.segmentation = self._placed(truth if turned is None else turned)
        self.report = report_on(self.segmentation, self.scan.volume)
        self.source = self.scan.dicom
        self.segments = segments_of(self.report)

    def _placed(self, truth):
        return Segmentation(np.asfortranarray(truth.labels), self.scan.volume.geometry)

    def seg(self, kind="BINARY"):
        return build_segmentation(self.source, self.segmentation, self.segments, kind)

    def sr(self, seg):
        return build_report(self.source, seg, self.segments, self.report)

    def structures(self, seg):
        return build_structures(self.source, self.segmentation, seg, self.segments, self.report)

    def verify_structures(self, structures, seg):
        reference = (str(seg.SOPInstanceUID), self.source)
        verify_structures(encoded(structures), self.segmentation, self.segments, self.report, reference)

    def verify(self, seg):
        verify_segmentation(encoded(seg), self.segmentation, self.segments, self.report, self.source)


def lesion_masks(segmentation):
    ids = number_lesions(segmentation).on_grid
    return {0: segmentation.liver, **{n: ids == n for n in range(1, int(ids.max()) + 1)}}


EVERYTHING = DicomForm(rtstruct=True)


def written(folder, scan, form=EVERYTHING) -> tuple[Segmentation, Report]:
    """Results of an ellipsoid with a lesion in it and a hole, checked as any are; and what they must say."""
    shape = scan.volume.geometry.shape
    index = np.indices(shape, sparse=True)
    middle = [n * part for n, part in zip(shape, (0.4, 0.45, 0.5), strict=True)]
    radius = sum(((x - m) / (n / 4)) ** 2 for x, m, n in zip(index, middle, shape, strict=True))
    labels = (radius < 1).astype(np.uint8) + (radius < 0.1)
    labels[int(middle[0]) + shape[0] // 8 :][:2, int(middle[1]), :] = 0
    segmentation = Segmentation(np.asfortranarray(labels), scan.volume.geometry)
    report = report_on(segmentation, scan.volume)
    write_dicom(folder, scan.dicom, segmentation, report, form)
    return segmentation, report


def report_on(segmentation, volume) -> Report:
    """What a run would say."""
    measured, geometry = measure(segmentation, volume), volume.geometry
    return Report(
        scan=ScanReport(sha256="", shape=geometry.shape, spacing_mm=geometry.spacing_mm, orientation="LPS"),
        models={task: ModelReport(name=task, version="1.2.3", sha256=sha) for task, sha in SHA256.items()},
        liver=measured.liver,
        lesions=measured.lesions,
        quality=Quality(),
        timings_s=Timings(),
    )
