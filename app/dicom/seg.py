"""A DICOM Segmentation of the liver and each lesion, on the very slices that were sent.

highdicom writes the object; it wants all masks of all segments in one dense array, which for many lesions in many
slices is many gigabytes. So it is shown one pixel for each slice and segment, from which it makes everything but the
pixels, and these are put in afterwards, slice by slice. `app.dicom.readback` reads the result with other code.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.seg import Segmentation as SegmentationObject
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat

from app.dicom import codes
from app.dicom.segments import Segment, SegmentMasks
from app.imaging.dicom_source import DicomSource, SourceImage
from app.imaging.volume import Float64, Segmentation

Kind = Literal["BINARY", "LABELMAP"]

SERIES_NUMBER = 7100
LIVER_COLOUR, LESION_COLOUR = (60, 220, 100), (255, 70, 60)


def build_segmentation(
    source: DicomSource, segmentation: Segmentation, segments: tuple[Segment, ...], kind: Kind = "BINARY"
) -> Dataset:
    """The segmentation object. BINARY: the liver's segment includes its lesions. LABELMAP: segments cannot overlap,
    so the liver's is the rest of the liver. Empty slices are left out.
    """
    masks = SegmentMasks(segmentation)
    order = _frame_order(source)
    seg = SegmentationObject(
        source_images=source_images(source),
        pixel_array=_sketch(masks, segments, order, kind),
        segmentation_type=SegmentationTypeValues(kind),
        segment_descriptions=[_described(segment) for segment in segments],
        series_instance_uid=generate_uid(prefix=None),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=codes.MANUFACTURER,
        manufacturer_model_name=codes.MANUFACTURER,
        software_versions=codes.software_version(),
        device_serial_number=codes.DEVICE_UID,
        content_label="LIVER_LESIONS",
        content_description=codes.SERIES_DESCRIPTION,
        series_description=codes.SERIES_DESCRIPTION,
    )
    _put_pixels(seg, source, masks, segments)
    return seg


def encoded(dataset: Dataset) -> bytes:
    """The file, as it is written and sent."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def source_images(source: DicomSource) -> list[Dataset]:
    """The source as highdicom wants it: a dataset a slice, or one for all if they came in one file. One pixel each."""
    if source.multiframe is None:
        return [_single(source, image) for image in source.images]
    dataset = _image_header(source, source.images[0])
    for element in source.multiframe:
        dataset.add(element)
    return [dataset]


def _single(source: DicomSource, image: SourceImage) -> Dataset:
    dataset = _image_header(source, image)
    dataset.ImagePositionPatient = _decimals(image.position_mm)
    dataset.ImageOrientationPatient = _decimals(source.directions.ravel())
    dataset.PixelSpacing = _decimals(source.spacing_mm[::-1])
    dataset.SliceThickness = _decimals(np.array([source.slice_distance_mm]))[0]
    return dataset


def _image_header(source: DicomSource, image: SourceImage) -> Dataset:
    dataset = Dataset()
    dataset.update(source.patient_and_study)
    dataset.Modality = "CT"
    dataset.SOPClassUID, dataset.SOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
    dataset.SeriesInstanceUID = source.series_uid
    dataset.Rows = dataset.Columns = 1
    return dataset


def _decimals(values: Float64) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def _frame_order(source: DicomSource) -> npt.NDArray[np.int64]:
    """For each picture that highdicom is told of: its k, or -1 for one that is not in the volume."""
    if source.multiframe is None:
        return np.arange(len(source.images))
    order = np.full(int(source.multiframe.NumberOfFrames), -1)
    for k, image in enumerate(source.images):
        order[(image.frame_number or 1) - 1] = k
    return order


def _sketch(
    masks: SegmentMasks, segments: tuple[Segment, ...], order: npt.NDArray[np.int64], kind: Kind
) -> npt.NDArray[np.bool_] | npt.NDArray[np.uint8]:
    """One pixel for each picture (and segment, if they may overlap): whether there is anything."""
    present = np.stack([masks.present(segment) for segment in segments], axis=-1)
    sketch: npt.NDArray[np.bool_] = (present[order] & (order[:, None] >= 0))[:, None, None, :]
    if kind == "BINARY":
        return sketch
    return np.asarray(sketch.any(axis=-1), dtype=np.uint8)


def _described(segment: Segment) -> SegmentDescription:
    network, is_liver = segment.network, segment.lesion is None
    return SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=codes.ORGAN if is_liver else codes.ABNORMAL,
        segmented_property_type=codes.LIVER if is_liver else codes.LESION,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"{codes.MANUFACTURER} {network.name}",
            family=codes.ALGORITHM_FAMILY,
            version=network.version,
            source=codes.MANUFACTURER,
            parameters={"network_sha256": network.sha256},
        ),
        tracking_uid=segment.tracking_uid,
        tracking_id=segment.label,
        anatomic_regions=[codes.LIVER],
    )


def _put_pixels(seg: Dataset, source: DicomSource, masks: SegmentMasks, segments: tuple[Segment, ...]) -> None:
    """Replace the one pixel of each frame by the mask it stands for."""
    by_number = {segment.number: segment for segment in segments}
    places = np.array([image.position_mm for image in source.images])
    columns, rows = masks.plane(segments[0], 0).shape[::-1]
    pixels = _PixelData(seg.BitsAllocated)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        k = int(np.linalg.norm(places - _position(frame, seg), axis=1).argmin())
        if seg.SegmentationType == "LABELMAP":
            pixels.add(masks.exclusive_plane(segments, k))
        else:
            pixels.add(masks.plane(by_number[_number(frame, seg)], k))
    seg.Rows, seg.Columns = rows, columns
    seg.PixelData = pixels.bytes()


def _position(frame: Dataset, seg: Dataset) -> Float64:
    group = frame if "PlanePositionSequence" in frame else seg.SharedFunctionalGroupsSequence[0]
    return np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)


def _number(frame: Dataset, seg: Dataset) -> int:
    group = frame if "SegmentIdentificationSequence" in frame else seg.SharedFunctionalGroupsSequence[0]
    return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


class _PixelData:
    """Frames as pixel data: bits follow each other without a gap between frames, the first in the lowest bit."""

    def __init__(self, bits_allocated: int) -> None:
        self._bits_allocated = bits_allocated
        self._data = bytearray()
        self._rest = np.zeros(0, dtype=np.bool_)

    def add(self, frame: npt.NDArray[np.generic]) -> None:
        if self._bits_allocated > 1:
            self._data += np.ascontiguousarray(frame, dtype=f"<u{self._bits_allocated // 8}").tobytes()
            return
        bits = np.concatenate([self._rest, frame.ravel()])
        whole = len(bits) // 8 * 8
        self._data += np.packbits(bits[:whole], bitorder="little").tobytes()
        self._rest = bits[whole:]

    def bytes(self) -> bytes:
        data = bytes(self._data) + np.packbits(self._rest, bitorder="little").tobytes()
        return data + b"\0" * (len(data) % 2)
