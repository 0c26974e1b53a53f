"""Broken and odd series, made by script, each with the verdict it must get."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from app.imaging.scan import Limits
from tests.dicom_files import (
    ROOT,
    SHAPE,
    change,
    compressed,
    enhanced_of,
    named,
    put_pixels,
    series_of,
    small_volume,
)

VOLUME = small_volume()
COUNT = SHAPE[2]
#: A small service, so that what is large is cheap to make.
LIMITS = Limits(max_voxels=40_000, max_bytes=2_000_000)

Files = dict[str, bytes]


def slices(**attributes) -> list[Dataset]:
    return series_of(VOLUME, **attributes)


def one(k: int = 3, **attributes) -> list[Dataset]:
    """The whole series, one slice of it changed."""
    made = slices()
    change(made[k], attributes)
    return made


def moved(k: int, mm: float, along: int = 2) -> list[Dataset]:
    made = slices()
    position = [float(value) for value in made[k].ImagePositionPatient]
    position[along] += mm
    made[k].ImagePositionPatient = [f"{value:.6f}" for value in position]
    return made


def tilted(degrees: float) -> list[Dataset]:
    made = slices()
    for k, each in enumerate(made):
        x, y, z = (float(value) for value in each.ImagePositionPatient)
        each.ImagePositionPatient = [f"{x:.6f}", f"{y + k * 2.5 * np.tan(np.radians(degrees)):.6f}", f"{z:.6f}"]
    return made


def without(*ks: int) -> list[Dataset]:
    return [each for k, each in enumerate(slices()) if k not in ks]


def doubled(*, same: bool) -> list[Dataset]:
    extra = change(slices()[2], {"SOPInstanceUID": f"{ROOT}.4.99"})
    if not same:
        extra.PixelData = extra.PixelData[::-1]
    return [*slices(), extra]


def cut(by: int) -> Files:
    files = named(slices())
    name = list(files)[4]
    return {**files, name: files[name][:-by]}


def overwritten(at: bytes, by: bytes) -> Files:
    """The same bytes, in one slice, by others."""
    files = named(slices())
    name = list(files)[4]
    assert at in files[name]
    return {**files, name: files[name].replace(at, by, 1)}


def spoiled(alter: Callable[[bytes], bytes], syntax: str = uid.JPEG2000Lossless) -> list[Dataset]:
    """A compressed series with one picture altered."""
    made = [compressed(each, syntax) for each in slices()]
    made[3].PixelData = alter(made[3].PixelData)
    return made


def claiming(syntax: str) -> list[Dataset]:
    """A series in a transfer syntax that is not read."""
    made = slices()
    for each in made:
        each.file_meta.TransferSyntaxUID = uid.UID(syntax)
        if each.file_meta.TransferSyntaxUID.is_encapsulated:
            each.PixelData = encapsulate([bytes(100)])
            each["PixelData"].VR = "OB"
    return made


def without_preamble() -> Files:
    return {name: content[132:] for name, content in named(slices()).items()}


def bare() -> Files:
    """Implicit little endian without preamble and meta information, as very old archives give it."""
    files = {}
    for k, each in enumerate(slices()):
        buffer = io.BytesIO()
        del each.file_meta
        each.save_as(buffer, implicit_vr=True, little_endian=True)
        files[f"{k}"] = buffer.getvalue()
    return files


def colour() -> list[Dataset]:
    made = slices()
    for each in made:
        each.SamplesPerPixel, each.PhotometricInterpretation, each.PlanarConfiguration = 3, "RGB", 0
        each.BitsAllocated = each.BitsStored = 8
        each.HighBit, each.PixelData = 7, bytes(SHAPE[0] * SHAPE[1] * 3 + 1)
    return made


def two_phases() -> list[Dataset]:
    late = slices()
    for each in late:
        change(each, {"SOPInstanceUID": each.SOPInstanceUID + ".2", "PixelData": each.PixelData[::-1]})
    return [*slices(), *late]


def renamed_series(count: int) -> list[Dataset]:
    made = []
    for number in range(count):
        for k, each in enumerate(slices()):
            made.append(
                change(each, {"SeriesInstanceUID": f"{ROOT}.3.{number}", "SOPInstanceUID": f"{ROOT}.{number}.{k}"})
            )
    return made


def enhanced(**attributes) -> list[Dataset]:
    return [change(enhanced_of(VOLUME), attributes)]


def frames_without(keyword: str) -> list[Dataset]:
    dataset = enhanced_of(VOLUME)
    for group in (*dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence[0]):
        group.pop(keyword, None)
    return [dataset]


def deep() -> Files:
    """Sequences in sequences, deeper than any parser likes."""
    nested = b""
    for _ in range(3000):
        nested = (
            struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + nested
        )
    return {"a": b"\0" * 128 + b"DICM" + meta_bytes() + nested}


def many_items() -> Files:
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 150_000
    sequence = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(items)) + items
    return {"a": b"\0" * 128 + b"DICM" + meta_bytes() + sequence}


def meta_bytes() -> bytes:
    syntax = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    return struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(syntax)) + syntax


def unknown_characters() -> Files:
    files = named(slices(SpecificCharacterSet="ISO_IR 192"))
    return {name: content.replace(b"ISO_IR 192", b"ISO_IR 471", 1) for name, content in files.items()}


def padded_far() -> list[Dataset]:
    made = slices()
    for each in made:
        each.add_new("PixelPaddingValue", "US", 65535)
        each.PixelData = b"\xff\xff" * 37 + each.PixelData[74:]
    return made


def other_sized(rows: int) -> list[Dataset]:
    made = slices()
    put_pixels(made[3], np.zeros((rows, SHAPE[0]), np.uint16))
    return made


def one_text_position() -> Files:
    position = str(slices()[4].ImagePositionPatient[2]).encode()
    return overwritten(position, b"MARKED"[: len(position)].ljust(len(position), b"X"))


def two_times_as_wide() -> list[Dataset]:
    made = slices()
    for each in made:
        put_pixels(each, np.zeros((SHAPE[1], 200), np.uint16))
    return made


def resized(data: bytes) -> bytes:
    at = data.find(b"\xff\x4f\xff\x51") + 8
    return data[:at] + struct.pack(">I", 60_000) + data[at + 4 :]


def noise(size: int) -> bytes:
    return np.random.default_rng(5).bytes(size)


def zip_bytes(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ACCEPTED: dict[str, tuple[Callable[[], object], list[str]]] = {
    "a whole series": (slices, []),
    "names that climb out": (lambda: named(slices()) | {"../../etc/passwd": b"x", "C:\\x": b"x"}, ["unsafe_names"]),
    "no preamble": (without_preamble, []),
    "no meta information": (bare, []),
    "a double, equal": (lambda: doubled(same=True), ["doubled_slices"]),
    "inverted display": (lambda: slices(PhotometricInterpretation="MONOCHROME1"), []),
    "no rescale type": (lambda: slices(RescaleType=None), []),
    "no frame of reference": (lambda: slices(FrameOfReferenceUID=None), ["uids_missing"]),
    "no patient": (lambda: slices(PatientName=None, PatientID=None, PatientSex=None, AccessionNumber=None), []),
    "a birth date that is none": (lambda: slices(PatientBirthDate="MARKED BIRTH"), []),
    "an unknown character set": (unknown_characters, []),
    "a wrong instance number": (lambda: slices(InstanceNumber=1), []),
    "a wrong slice location": (lambda: slices(SliceLocation="12.5"), []),
    "a wrong slice thickness": (lambda: slices(SliceThickness="99"), []),
    "a slice 0.05 mm off": (lambda: moved(3, 0.05), []),
    "padding above all tissue": (padded_far, ["padding"]),
    "an empty sequence of results": (lambda: named(slices()) | {"x": b"DICM", "y": b"\x08\x00"}, []),
    "frames in one file": (enhanced, []),
}

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (dict, "no_dicom"),
    "no DICOM": (lambda: {"a.txt": b"x" * 500, "b.jpg": b"\xff\xd8\xff" + bytes(500)}, "no_dicom"),
    "a zip in a zip": (lambda: {"inner.zip": zip_bytes(named(slices()))}, "no_dicom"),
    "an MR": (lambda: slices(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), "not_ct"),
    "a PET": (lambda: slices(Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128"), "not_ct"),
    "screenshots of a CT": (lambda: slices(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "not_ct"),
    "a modality with a name in it": (lambda: slices(Modality="MARKED"), "not_ct"),
    "only localizers": (lambda: slices(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "only_localizer"),
    "two series": (lambda: renamed_series(2), "several_series"),
    "thirty series": (lambda: renamed_series(30), "several_series"),
    "a missing slice": (lambda: without(3), "missing_slices"),
    "three missing slices": (lambda: without(1, 2, 4), "missing_slices"),
    "a gap too wide by half": (lambda: moved(6, 1.25), "uneven_gaps"),
    "a slice out of place": (lambda: moved(3, 0.7), "uneven_gaps"),
    "one slice shifted sideways": (lambda: moved(3, 4.0, along=0), "shifted_slices"),
    "a double shifted sideways": (lambda: [*slices(), moved(2, 5.0, along=1)[2]], "shifted_slices"),
    "a gantry tilt of 15 degrees": (lambda: tilted(15), "sheared_grid"),
    "a gantry tilt of 1 degree": (lambda: tilted(1), "sheared_grid"),
    "a double that differs": (lambda: doubled(same=False), "doubled_slices"),
    "two phases": (two_phases, "doubled_slices"),
    "one slice": (lambda: slices()[:1], "too_few_slices"),
    "a turned slice": (lambda: one(ImageOrientationPatient=["0", "1", "0", "-1", "0", "0"]), "mixed_orientations"),
    "a mirrored slice": (lambda: one(ImageOrientationPatient=["-1", "0", "0", "0", "1", "0"]), "mixed_orientations"),
    "directions at no right angle": (
        lambda: slices(ImageOrientationPatient=["1", "0", "0", "0.5", "0.866", "0"]),
        "invalid_orientation",
    ),
    "directions of no length": (lambda: slices(ImageOrientationPatient=["0"] * 6), "invalid_orientation"),
    "another pixel spacing": (lambda: one(PixelSpacing=["0.9", "0.82"]), "mixed_spacing"),
    "pixel spacing of zero": (lambda: slices(PixelSpacing=["0", "0.8"]), "invalid_geometry"),
    "negative pixel spacing": (lambda: slices(PixelSpacing=["-0.9", "0.8"]), "invalid_geometry"),
    "another size": (lambda: other_sized(SHAPE[1] + 2), "mixed_sizes"),
    "another frame of reference": (lambda: one(FrameOfReferenceUID=f"{ROOT}.2.2"), "mixed_frames_of_reference"),
    "no position": (lambda: one(ImagePositionPatient=None), "missing_tags"),
    "an empty position": (lambda: one(ImagePositionPatient=""), "missing_tags"),
    "a position of two numbers": (lambda: one(ImagePositionPatient=["1", "2"]), "corrupt_file"),
    "a position that is a name": (
        one_text_position,
        "corrupt_file",
    ),
    "no orientation": (lambda: slices(ImageOrientationPatient=None), "missing_tags"),
    "no pixel spacing": (lambda: slices(PixelSpacing=None), "missing_tags"),
    "no rescale slope": (lambda: slices(RescaleSlope=None), "missing_tags"),
    "no rescale intercept": (lambda: one(RescaleIntercept=None), "missing_tags"),
    "a slope of zero": (lambda: one(RescaleSlope="0"), "invalid_voxels"),
    "electron densities": (lambda: slices(RescaleType="ED"), "not_hounsfield"),
    "values far above a CT": (lambda: slices(RescaleSlope="100"), "invalid_voxels"),
    "no rows": (lambda: one(Rows=None), "missing_tags"),
    "no pixels": (lambda: one(PixelData=None), "corrupt_file"),
    "colours": (colour, "colour_image"),
    "32 bits a pixel": (lambda: slices(BitsAllocated=32, BitsStored=32, HighBit=31), "invalid_voxels"),
    "more bits used than there are": (lambda: one(BitsStored=17), "invalid_voxels"),
    "several pictures in a plain CT": (lambda: one(NumberOfFrames=2), "corrupt_file"),
    "a file cut off in the pixels": (lambda: cut(100), "corrupt_file"),
    "a file cut off in the header": (lambda: cut(SHAPE[0] * SHAPE[1] * 2 + 300), "corrupt_file"),
    "only the beginning of a file": (
        lambda: named(slices()) | {"x": bytes(128) + b"DICM" + b"\x02\x00"},
        "corrupt_file",
    ),
    "noise after the magic": (lambda: named(slices()) | {"x": bytes(128) + b"DICM" + noise(4000)}, "corrupt_file"),
    "sequences without end": (deep, "corrupt_file"),
    "a hundred thousand items": (many_items, "too_large"),
    "a picture elsewhere on the net": (lambda: claiming("1.2.840.10008.1.2.4.94"), "unsupported_transfer_syntax"),
    "a file deflated as a whole": (lambda: claiming(uid.DeflatedExplicitVRLittleEndian), "unsupported_transfer_syntax"),
    "a video": (lambda: claiming(uid.MPEG4HP41), "unsupported_transfer_syntax"),
    "half a JPEG 2000": (lambda: spoiled(lambda data: data[: len(data) // 2]), "corrupt_file"),
    "a JPEG 2000 of another size": (lambda: spoiled(resized), "corrupt_file"),
    "noise for a JPEG 2000": (lambda: spoiled(lambda data: data[:16] + noise(len(data) - 16)), "corrupt_file"),
    "half a JPEG-LS": (lambda: spoiled(lambda data: data[: len(data) // 2], uid.JPEGLSLossless), "corrupt_file"),
    "half a lossless JPEG": (lambda: spoiled(lambda data: data[: len(data) // 2], uid.JPEGLossless), "corrupt_file"),
    "noise for a lossless JPEG": (
        lambda: spoiled(lambda data: data[:16] + noise(len(data) - 16), uid.JPEGLossless),
        "corrupt_file",
    ),
    "a broken RLE": (
        lambda: spoiled(lambda data: data[:20] + bytes(len(data) - 20), uid.RLELossless),
        "corrupt_file",
    ),
    "frames that are not described": (lambda: enhanced(NumberOfFrames=COUNT + 1), "corrupt_file"),
    "no frames": (lambda: enhanced(NumberOfFrames=0), "corrupt_file"),
    "a million frames": (lambda: enhanced(NumberOfFrames=1_000_000), "too_large"),
    "frames without a place": (lambda: frames_without("PlanePositionSequence"), "missing_tags"),
    "frames without Hounsfield units": (lambda: frames_without("PixelValueTransformationSequence"), "missing_tags"),
    "frames cut off": (lambda: enhanced(PixelData=bytes(1000)), "corrupt_file"),
    "two files of frames": (lambda: [*enhanced(), *enhanced(SOPInstanceUID=f"{ROOT}.4.77")], "split_series"),
    "more voxels than allowed": (two_times_as_wide, "too_large"),
    "more bytes than allowed": (lambda: named(slices()) | {"x": bytes(2_000_000)}, "too_large"),
}
