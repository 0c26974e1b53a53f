"""A structured report (TID 1500, Comprehensive 3D SR) with the numbers of the report, each on its segment."""

from __future__ import annotations

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import generate_uid

from app.dicom import codes
from app.dicom.seg import source_images
from app.dicom.segments import Segment
from app.imaging.dicom_source import DicomSource
from app.report import LesionReport, Report

SERIES_NUMBER = 7101


def build_report(source: DicomSource, seg: Dataset, segments: tuple[Segment, ...], report: Report) -> Dataset:
    """The structured report. One group for the liver and one a lesion: volume, diameters, mean HU, burden.

    seg: the segmentation object that its groups point at.
    """
    lesions = {lesion.id: lesion for lesion in report.lesions}
    groups = [
        _group(
            source, seg, segment, _liver(report) if segment.lesion is None else _lesion(lesions[segment.lesion], report)
        )
        for segment in segments
    ]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer()),
        procedure_reported=dictionary.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=dictionary.DCM.ImagingMeasurementReport,
    )
    return Comprehensive3DSR(
        evidence=[seg, *source_images(source)],
        content=content,
        series_instance_uid=generate_uid(prefix=None),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=codes.MANUFACTURER,
        is_complete=True,
        is_final=False,
        series_description=codes.SERIES_DESCRIPTION,
        manufacturer_model_name=codes.MANUFACTURER,
        software_versions=codes.software_version(),
        device_serial_number=codes.DEVICE_UID,
    )


def _observer() -> ObserverContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=codes.DEVICE_UID,
        name=codes.MANUFACTURER,
        manufacturer_name=codes.MANUFACTURER,
        model_name=codes.software_version(),
    )
    return ObserverContext(observer_type=dictionary.DCM.Device, observer_identifying_attributes=device)


def _group(
    source: DicomSource, seg: Dataset, segment: Segment, measurements: list[Measurement]
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    is_liver = segment.lesion is None
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.label),
        referenced_segment=ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=segment.number,
            source_series=SourceSeriesForSegmentation(source.series_uid),
        ),
        finding_category=codes.ORGAN if is_liver else codes.ABNORMAL,
        finding_type=codes.LIVER if is_liver else codes.LESION,
        finding_sites=[FindingSite(anatomic_location=codes.LIVER)],
        algorithm_id=AlgorithmIdentification(
            name=f"{codes.MANUFACTURER} {segment.network.name}",
            version=segment.network.version,
            parameters=[f"network_sha256={segment.network.sha256}"],
        ),
        measurements=measurements,
    )


def _liver(report: Report) -> list[Measurement]:
    liver = report.liver
    measurements = [Measurement(codes.VOLUME, liver.volume_ml, codes.MILLILITRE)]
    if liver.mean_hu is not None:
        measurements.append(_mean_hu(liver.mean_hu))
    return [*measurements, Measurement(codes.BURDEN, report.lesion_burden, codes.NO_UNIT)]


def _lesion(lesion: LesionReport, report: Report) -> list[Measurement]:
    lengths: tuple[tuple[CodedConcept, float], ...] = (
        (codes.LONGEST_DIAMETER, lesion.longest_axial_diameter_mm),
        (codes.PERPENDICULAR_DIAMETER, lesion.perpendicular_diameter_mm),
    )
    return [
        Measurement(codes.VOLUME, lesion.volume_ml, codes.MILLILITRE),
        *(Measurement(name, length_mm, codes.MILLIMETRE) for name, length_mm in lengths),
        _mean_hu(lesion.mean_hu),
        Measurement(codes.BURDEN, lesion.volume_ml / report.liver.volume_ml, codes.NO_UNIT),
    ]


def _mean_hu(mean_hu: float) -> Measurement:
    return Measurement(codes.ATTENUATION, mean_hu, codes.HOUNSFIELD_UNIT, derivation=codes.MEAN)
