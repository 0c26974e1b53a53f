"""An RT Structure Set with the outlines of the liver and each lesion, for treatment planning and for old viewers.

pydicom writes it, for no library has a class for it. Implicit little endian: with an explicit VR no value may be longer
than 64 KiB, and an outline can be. `app.dicom.structures` reads the result with other code.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from highdicom.sr import CodedConcept
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from app.dicom import codes
from app.dicom.seg import LESION_COLOUR, LIVER_COLOUR
from app.dicom.segments import Segment, SegmentMasks
from app.imaging.dicom_source import DicomSource, SourceImage
from app.imaging.outlines import outlines
from app.imaging.volume import Float64, Segmentation
from app.report import Report

SERIES_NUMBER = 7102
LABEL = "LIVER_LESIONS"
#: Digits after the decimal point: a nanometre, in at most 16 characters.
_DIGITS = 6
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
#: Of images only.
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def build_structures(
    source: DicomSource, segmentation: Segmentation, seg: Dataset, segments: tuple[Segment, ...], report: Report
) -> Dataset:
    """The structure set. A region for each segment, under its number: the liver's includes its lesions.

    seg: the segmentation object that its regions are derived from.
    """
    dataset = _frame(source)
    masks = SegmentMasks(segmentation)
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    lesions = {lesion.id: lesion.volume_ml for lesion in report.lesions}
    for segment in segments:
        contours, enclosed_ml = _contours(source, masks, segment)
        volume_ml = report.liver.volume_ml if segment.lesion is None else lesions[segment.lesion]
        region = _region(source, seg, segment)
        region.ROIVolume = f"{volume_ml:.10g}"
        error = round(100 * (enclosed_ml / volume_ml - 1), 4)
        region.ROIDescription = f"Voxels {volume_ml:.4f} ml, contours {enclosed_ml:.4f} ml ({error + 0.0:+.4f} %)"
        dataset.StructureSetROISequence.append(region)
        dataset.ROIContourSequence.append(_drawn(segment, contours))
        dataset.RTROIObservationsSequence.append(_observation(segment))
    return dataset


def _frame(source: DicomSource) -> Dataset:
    """All but the regions."""
    dataset = Dataset()
    dataset.update(source.patient_and_study)
    for keyword in _LOSSY:
        dataset.pop(keyword, None)
    now = datetime.now().astimezone()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid(prefix=None)
    dataset.Modality, dataset.OperatorsName = "RTSTRUCT", ""
    dataset.SeriesInstanceUID, dataset.SeriesNumber = generate_uid(prefix=None), SERIES_NUMBER
    dataset.SeriesDescription, dataset.InstanceNumber = codes.SERIES_DESCRIPTION, 1
    dataset.Manufacturer = dataset.ManufacturerModelName = codes.MANUFACTURER
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = codes.software_version(), codes.DEVICE_UID
    dataset.StructureSetLabel = LABEL
    dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.ReferencedFrameOfReferenceSequence = [_referenced(source)]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


def _referenced(source: DicomSource) -> Dataset:
    """The frame of reference, the study, the series and its slices."""
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ContourImageSequence = [_image(image) for image in source.images]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = source.patient_and_study.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = source.patient_and_study.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(image: SourceImage) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
    if image.frame_number is not None:
        item.ReferencedFrameNumber = image.frame_number
    return item


def _region(source: DicomSource, seg: Dataset, segment: Segment) -> Dataset:
    region = Dataset()
    region.ROINumber, region.ROIName = segment.number, segment.label
    region.ReferencedFrameOfReferenceUID = source.patient_and_study.FrameOfReferenceUID
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [_code(codes.ALGORITHM_FAMILY)]
    algorithm.AlgorithmName = f"{codes.MANUFACTURER} {segment.network.name}"
    algorithm.AlgorithmVersion = segment.network.version
    algorithm.AlgorithmParameters = f"network_sha256={segment.network.sha256}"
    algorithm.AlgorithmSource = codes.MANUFACTURER
    region.ROIDerivationAlgorithmIdentificationSequence = [algorithm]
    origin = Dataset()
    origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
    origin.ReferencedSegmentNumber = segment.number
    region.DefinitionSourceSequence = [origin]
    return region


def _drawn(segment: Segment, contours: list[Dataset]) -> Dataset:
    drawn = Dataset()
    drawn.ReferencedROINumber = segment.number
    drawn.ROIDisplayColor = list(LIVER_COLOUR if segment.lesion is None else LESION_COLOUR)
    drawn.ContourSequence = contours
    return drawn


def _observation(segment: Segment) -> Dataset:
    is_liver = segment.lesion is None
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = segment.number
    # A lesion is nobody's target before somebody says so.
    observation.RTROIInterpretedType = "ORGAN" if is_liver else ""
    observation.ROIInterpreter = ""
    observation.RTROIIdentificationCodeSequence = [_code(codes.LIVER if is_liver else codes.LESION)]
    return observation


def _contours(source: DicomSource, masks: SegmentMasks, segment: Segment) -> tuple[list[Dataset], float]:
    """Every outline of a segment, and what they enclose in ml."""
    contours: list[Dataset] = []
    enclosed_mm2 = 0.0
    for k in np.flatnonzero(masks.present(segment)):
        image = source.images[k]
        for outline in outlines(masks.plane(segment, int(k))):
            points_mm = _placed(outline, image, source)
            enclosed_mm2 += _enclosed(points_mm)
            contour = Dataset()
            contour.ContourImageSequence = [_image(image)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points_mm)
            contour.ContourNumber = len(contours) + 1
            _put_points(contour, points_mm)
            contours.append(contour)
    return contours, enclosed_mm2 * source.slice_distance_mm / 1000.0


def _placed(outline: Float64, image: SourceImage, source: DicomSource) -> Float64:
    """Points (n, 2) of an outline, as (row, column), in a slice: (n, 3), LPS mm, rounded as they are written."""
    steps_mm = source.directions * source.spacing_mm[:, None]
    return np.round(image.position_mm + outline[:, ::-1] @ steps_mm, _DIGITS) + 0.0


def _enclosed(points_mm: Float64) -> float:
    """Area in mm2 within a closed line in a plane, (n, 3)."""
    from_first = points_mm - points_mm[0]
    return float(np.linalg.norm(np.cross(from_first[:-1], from_first[1:]).sum(axis=0))) / 2


def _put_points(contour: Dataset, points_mm: Float64) -> None:
    """Set ContourData as text: as numbers, pydicom would make an object of each of a million."""
    value = "\\".join(f"{mm:.{_DIGITS}f}" for mm in points_mm.ravel()).encode()
    value += b" " * (len(value) % 2)
    tag = Tag("ContourData")
    contour[tag] = RawDataElement(tag, "DS", len(value), value, 0, is_implicit_VR=True, is_little_endian=True)


def _code(concept: CodedConcept | Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = concept.value, concept.scheme_designator
    item.CodeMeaning = concept.meaning
    return item
