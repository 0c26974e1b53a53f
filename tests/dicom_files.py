"""DICOM series for tests, made by script from arrays: whole, odd, and broken in every way a zip can be."""

from __future__ import annotations

import io
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, generate_uid

from app.imaging.volume import Geometry, Volume
from tests.nifti_files import straight

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LPS = np.diag([-1.0, -1.0, 1.0])
#: Everything that must never leave the files it came in: no error, no log line, no report holds any of it.
ROOT = "1.2.826.0.1.3680043.10.4711"
MARKS = {
    "PatientName": "MARKEDNAME^ERIKA",
    "PatientID": "MARKEDID-0815",
    "PatientBirthDate": "19470811",
    "AccessionNumber": "MARKEDACC",
    "StudyID": "MARKEDSTUDY",
    "ReferringPhysicianName": "MARKEDDOCTOR^HEINZ",
    "InstitutionName": "MARKEDHOSPITAL",
    "PatientComments": "MARKEDCOMMENT",
    "StudyInstanceUID": f"{ROOT}.1.1",
    "FrameOfReferenceUID": f"{ROOT}.2.1",
    "SeriesInstanceUID": f"{ROOT}.3.20240229123456789",
}
MARKED_WORDS = ("MARKED", "ERIKA", "HEINZ", "19470811", ROOT)

#: Odd, so that frames of single bits do not end with a byte; large enough for JPEG 2000.
SHAPE = (37, 33, 7)


def hounsfield(shape=SHAPE, seed=7) -> np.ndarray:
    """Asymmetric grey values in the range of a CT: int16 (I, J, K)."""
    values = np.random.default_rng(seed).integers(-1024, 1500, shape).astype(np.int16)
    return np.asfortranarray(values)


def small_volume(affine=None, shape=SHAPE) -> Volume:
    """Random Hounsfield units on a small grid; its rows, columns and slices are those of the series made of it."""
    affine = LPS_AFFINE if affine is None else affine
    return Volume(hounsfield(shape), Geometry(shape, affine))


#: Columns to left, rows to posterior, slices to superior, as most scanners store them.
LPS_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0]) @ straight()


def series_of(volume: Volume, **attributes) -> list[Dataset]:
    """One CT file for each k of a volume, in that order; `attributes` override, None removes."""
    return [_slice(volume, k, attributes) for k in range(volume.geometry.shape[2])]


def _slice(volume: Volume, k: int, attributes: dict) -> Dataset:
    affine = volume.geometry.affine
    directions, spacing = LPS @ affine[:3, :3] / volume.geometry.spacing_mm, volume.geometry.spacing_mm
    dataset = Dataset()
    for keyword, value in MARKS.items():
        setattr(dataset, keyword, value)
    dataset.PatientSex, dataset.StudyDate, dataset.StudyTime = "F", "20240229", "101112"
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, f"{ROOT}.4.{k + 1}"
    dataset.Modality, dataset.ImageType, dataset.SeriesNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], 3
    dataset.Manufacturer, dataset.InstanceNumber = "Test", k + 1
    dataset.ImagePositionPatient = decimals(LPS @ volume.geometry.to_mm([0, 0, k]))
    dataset.ImageOrientationPatient = decimals([*directions[:, 0], *directions[:, 1]])
    dataset.PixelSpacing, dataset.SliceThickness = decimals([spacing[1], spacing[0]]), decimals([spacing[2]])[0]
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
    put_pixels(dataset, (volume.voxels[:, :, k].T + 1024).astype(np.uint16))
    change(dataset, attributes)
    return with_meta(dataset)


def put_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    """Stored values (rows, columns) of uint16 or int16."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, int(stored.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"


def signed(dataset: Dataset, hu: np.ndarray) -> Dataset:
    """The same slice with signed pixels and no intercept; `hu` (rows, columns)."""
    put_pixels(dataset, hu.astype(np.int16))
    dataset.RescaleIntercept = 0
    return dataset


def change(dataset: Dataset, attributes: dict) -> Dataset:
    """Set attributes; None removes one."""
    for keyword, value in attributes.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    return dataset


def with_meta(dataset: Dataset, syntax=ExplicitVRLittleEndian) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CT)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset.file_meta = meta
    return dataset


def decimals(values: Iterable[float]) -> list[str]:
    """Decimal strings with as many digits as DICOM allows for."""
    return [np.format_float_positional(float(f"{value:.10g}"), trim="-") for value in values]


def packed(dataset: Dataset) -> bytes:
    """The file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def named(datasets: Iterable[Dataset], folder="PATIENT/STUDY") -> dict[str, bytes]:
    """Files as an export names them."""
    return {f"{folder}/IM{number:04}": packed(dataset) for number, dataset in enumerate(datasets)}


def zipped(folder: Path, files: dict[str, bytes] | list[Dataset], kind=zipfile.ZIP_DEFLATED) -> Path:
    """A zip of files, or of datasets under usual names; its own name means nothing to the reader."""
    path = folder / "scan"
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in (files if isinstance(files, dict) else named(files)).items():
            archive.writestr(name, content)
    return path


def enhanced_of(volume: Volume, order: Iterable[int] | None = None) -> Dataset:
    """The same slices as one enhanced multi-frame file, its frames in any order."""
    order = list(range(volume.geometry.shape[2]) if order is None else order)
    slices = series_of(volume)
    dataset = series_of(volume)[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                    "RescaleIntercept", "RescaleSlope", "RescaleType"):  # fmt: skip
        delattr(dataset, keyword)
    dataset.SOPClassUID, dataset.NumberOfFrames = ENHANCED_CT, len(order)
    dataset.PixelData = b"".join(slices[k].PixelData for k in order)
    dataset["PixelData"].VR = "OW"
    shared, first = Dataset(), slices[0]
    shared.PlaneOrientationSequence = [_only(first, "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_only(first, "PixelSpacing", "SliceThickness")]
    shared.PixelValueTransformationSequence = [_only(first, "RescaleIntercept", "RescaleSlope", "RescaleType")]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = [_only(slices[k], "ImagePositionPatient")]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return with_meta(dataset)


def _only(dataset: Dataset, *keywords: str) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, dataset[keyword].value)
    return item


def compressed(dataset: Dataset, syntax: str) -> Dataset:
    """The same slice in a compressed transfer syntax: pydicom's encoders, and libjpeg-turbo for JPEG."""
    if syntax not in (JPEGLossless, JPEGLosslessSV1, JPEGExtended12Bit):
        dataset.compress(syntax, generate_instance_uid=False)
        return dataset
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    if syntax == JPEGExtended12Bit:
        code = imagecodecs.jpeg8_encode(stored, level=100, bitspersample=12)
    else:
        predictor = 1 if syntax == JPEGLosslessSV1 else 6
        code = imagecodecs.jpeg8_encode(
            stored, lossless=True, predictor=predictor, bitspersample=int(dataset.BitsStored)
        )
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([code])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return dataset


def program(name: str) -> str:
    """A program of the machine, not one that pynetdicom put into the environment under the same name.

    Where it is missing the test is skipped, but in CI it fails.
    """
    path = shutil.which(name, path="/usr/bin:/usr/local/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return path


def tool(name: str) -> str:
    """A program that a Python package brings, beside the interpreter; where it is missing as for `program`."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return str(path)


def series_in(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def shared_data(name: str) -> Path:
    """A folder of real data, or a skip."""
    root = os.environ.get("HEPASEG_DATA")
    if root is None or not (Path(root) / name).is_dir():
        pytest.skip("HEPASEG_DATA names no folder with these data")
    return Path(root) / name
