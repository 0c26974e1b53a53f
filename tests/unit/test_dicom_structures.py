"""Structure sets enclose exactly what was found, on any grid; whatever they draw wrongly is noticed."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.uid import ImplicitVRLittleEndian

from app.dicom.readback import BrokenResultError, SegmentationFile
from app.dicom.results import DICOM_FILES, STRUCTURES, DicomForm, write_dicom
from app.dicom.seg import encoded
from app.dicom.structures import StructureFile
from app.imaging.scan import read_scan
from app.imaging.volume import Geometry, Segmentation
from tests.dicom_case import SHA256, Case, lesion_masks, torn_labels
from tests.dicom_files import MARKS, SHAPE, enhanced_of, series_of, small_volume, zipped
from tests.nifti_files import oblique
from tests.toy_grids import ORIENTATIONS

PATIENT = {"PatientName", "PatientID", "PatientBirthDate", "PatientSex"}


def torn(volume=None) -> Segmentation:
    return Segmentation(torn_labels(), (volume or small_volume()).geometry)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path, small_volume(), turned=torn())


def winding(contours, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """How often contours go round each point (n, 3) of their plane, by the angles they are seen under: slow and
    obvious, in millimetres, without a grid.
    """
    turns = np.zeros(len(points))
    for contour in contours:
        a = contour.points_mm - points[:, None]
        b = np.roll(a, -1, axis=1)
        turns += np.arctan2(np.cross(a, b) @ normal, (a * b).sum(axis=2)).sum(axis=1)
    return np.rint(np.abs(turns) / (2 * np.pi))


def assert_drawn(content: bytes, segmentation: Segmentation) -> None:
    """Each voxel is in the contours of its region, once, and in no others."""
    geometry, written = segmentation.geometry, StructureFile(content)
    normal = np.cross(geometry.affine[:3, 0], geometry.affine[:3, 1])
    normal /= np.linalg.norm(normal)
    contours = list(written.contours())
    for number, mask in lesion_masks(segmentation).items():
        for k in range(mask.shape[2]):
            index = np.argwhere(np.ones(mask.shape[:2], bool))
            points = geometry.to_mm(np.column_stack([index, np.full(len(index), k)]))
            here = [
                each
                for each in contours
                if each.region == number + 1 and np.abs((each.points_mm - points[0]) @ normal).max() < 1e-3
            ]
            assert np.array_equal(winding(here, points, normal).reshape(mask.shape[:2]), mask[:, :, k])


def test_the_contours_enclose_what_was_found_and_their_volume_is_stated(case: Case, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    write_dicom(out, case.source, case.segmentation, case.report, DicomForm(rtstruct=True))
    assert {path.name for path in out.iterdir()} == {*DICOM_FILES, STRUCTURES}
    content = (out / STRUCTURES).read_bytes()
    assert_drawn(content, case.segmentation)
    written = StructureFile(content)
    volumes = [case.report.liver.volume_ml, *(lesion.volume_ml for lesion in case.report.lesions)]
    assert [region.volume_ml for region in written.regions.values()] == pytest.approx(volumes, rel=1e-9)
    for item, volume in zip(written.header.StructureSetROISequence, volumes, strict=True):
        assert item.ROIDescription == f"Voxels {volume:.4f} ml, contours {volume:.4f} ml (+0.0000 %)"


def test_regions_are_those_of_the_segmentation_and_say_what_drew_them(case: Case):
    seg = case.seg()
    written, segments = StructureFile(encoded(case.structures(seg))), SegmentationFile(encoded(seg)).segments
    assert {n: (info.name, info.segment) for n, info in written.regions.items()} == {
        n: (info.label, n) for n, info in segments.items()
    }
    assert {info.segmentation_uid for info in written.regions.values()} == {seg.SOPInstanceUID}
    assert written.regions[1].algorithm == ("Hepaseg liver", "1.2.3", f"network_sha256={SHA256['liver']}")
    assert written.regions[2].algorithm == ("Hepaseg lesion", "1.2.3", f"network_sha256={SHA256['lesion']}")


def test_each_contour_names_the_slice_it_lies_on(case: Case):
    written = StructureFile(encoded(case.structures(case.seg())))
    places = {(image.sop_instance_uid, image.frame_number): image.position_mm for image in case.source.images}
    for contour in written.contours():
        assert contour.points_mm[:, 2] == pytest.approx(places[contour.source][2], abs=1e-6)
    assert written.source_uids() == {image.sop_instance_uid for image in case.source.images}


@pytest.mark.parametrize("codes", ORIENTATIONS[1::5])
def test_every_orientation_is_drawn_where_it_lies(codes, tmp_path: Path):
    turned = small_volume().reoriented(codes)
    scan = read_scan(zipped(tmp_path, series_of(turned)))
    case = Case(tmp_path, turned, turned=torn().reoriented(scan.volume.geometry.axis_codes))
    seg = case.seg()
    structures = case.structures(seg)
    case.verify_structures(structures, seg)
    assert_drawn(encoded(structures), case.segmentation)


def test_an_oblique_series_is_drawn_where_it_lies(tmp_path: Path):
    volume = small_volume(np.diag([1.0, -1.0, 1.0, 1.0]) @ oblique())
    case = Case(tmp_path, volume, turned=torn(volume))
    seg = case.seg()
    structures = case.structures(seg)
    case.verify_structures(structures, seg)
    assert_drawn(encoded(structures), case.segmentation)


def test_a_multi_frame_series_is_named_frame_by_frame(tmp_path: Path):
    order = (3, 1, 6, 0, 2, 5, 4)
    case = Case(tmp_path, small_volume(), files=[enhanced_of(small_volume(), order)], turned=torn())
    seg = case.seg()
    structures = case.structures(seg)
    case.verify_structures(structures, seg)
    for contour in StructureFile(encoded(structures)).contours():
        k = order[contour.source[1] - 1]
        assert contour.points_mm[:, 2] == pytest.approx(case.source.images[k].position_mm[2], abs=1e-6)


def test_a_contour_longer_than_an_explicit_value_may_be_survives(tmp_path: Path):
    shape = (120, 120, 3)
    volume = small_volume(shape=shape)
    checkered = np.zeros(shape, np.uint8, order="F")
    checkered[::2, :, 1] = checkered[:, 60, 1] = 1  # a comb of a hundred and twenty teeth
    checkered[1::4, ::2, 1] = 1
    case = Case(tmp_path, volume, turned=Segmentation(checkered, volume.geometry))
    seg = case.seg()
    structures = case.structures(seg)
    case.verify_structures(structures, seg)
    read = dcmread(io.BytesIO(encoded(structures)))
    assert read.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    longest = max(len(item.get_item("ContourData").value) for item in read.ROIContourSequence[0].ContourSequence)
    assert longest > struct.unpack("<H", b"\xff\xff")[0]


def test_patient_and_study_are_copied_and_nothing_else_of_the_source(case: Case):
    structures = dcmread(io.BytesIO(encoded(case.structures(case.seg()))))
    assert {keyword_for_tag(each.tag) for each in structures.group_dataset(0x0010)} == PATIENT
    assert structures.StudyInstanceUID == MARKS["StudyInstanceUID"]
    assert structures.FrameOfReferenceUID == MARKS["FrameOfReferenceUID"]
    assert "MARKEDHOSPITAL" not in str(structures)
    assert "MARKEDCOMMENT" not in str(structures)


def contours_of(structures, region=0):
    return structures.ROIContourSequence[region].ContourSequence


def points_of(contour) -> np.ndarray:
    return np.array(contour.ContourData, dtype=float).reshape(-1, 3)


def redrawn(contour, points) -> None:
    contour.ContourData, contour.NumberOfContourPoints = [f"{x:.6f}" for x in np.ravel(points)], len(points)


def moved(structures):
    for contour in contours_of(structures):
        redrawn(contour, points_of(contour) + np.array([0.9, 0, 0]))


def corners_cut(structures):
    """As an outline half-way between pixel centres is: the mask is the same, the volume is not."""
    for contour in contours_of(structures, 1):
        points = points_of(contour)
        middle = (points + np.roll(points, -1, axis=0)) / 2
        redrawn(contour, middle)


def lost_contour(structures):
    del contours_of(structures)[-1]


def filled_hole(structures):
    """Without the last hole of a keyholed outline: the six points that a channel and a square have more."""
    contour = max(contours_of(structures), key=lambda each: each.NumberOfContourPoints)
    points = points_of(contour)
    doubles = [n for n in range(len(points)) if (np.abs(points - points[n]).max(axis=1) < 1e-6).sum() > 1]
    redrawn(contour, np.delete(points, slice(doubles[0], doubles[-1] + 1), axis=0))


def doubled_contour(structures):
    """One contour twice in the place of another: as many voxels as there should be, if they are of equal size."""
    contours = contours_of(structures)
    contours.insert(1, contours[0])


def other_slice(structures):
    first, last = contours_of(structures)[0], contours_of(structures)[-1]
    first.ContourImageSequence, last.ContourImageSequence = last.ContourImageSequence, first.ContourImageSequence


def lifted(structures):
    contour = contours_of(structures)[0]
    redrawn(contour, points_of(contour) + np.array([0, 0, 1.2]))


def outside(structures):
    contour = contours_of(structures)[0]
    redrawn(contour, points_of(contour) + np.array([500, 0, 0]))


def beyond(structures):
    contour = contours_of(structures)[0]
    redrawn(contour, points_of(contour) + np.array([0, 0, 500]))


def exchanged_regions(structures):
    one, two = structures.ROIContourSequence[1:3]
    one.ReferencedROINumber, two.ReferencedROINumber = two.ReferencedROINumber, one.ReferencedROINumber


def other_name(structures):
    structures.StructureSetROISequence[1].ROIName = "Lesion 2"


def other_volume(structures):
    structures.StructureSetROISequence[2].ROIVolume = "1.0"


def other_segmentation(structures):
    structures.StructureSetROISequence[0].DefinitionSourceSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def foreign_slices(structures):
    study = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def lost_region(structures):
    del structures.StructureSetROISequence[-1]


def open_contour(structures):
    contours_of(structures)[0].ContourGeometricType = "OPEN_PLANAR"


def fewer_points(structures):
    contours_of(structures)[0].NumberOfContourPoints = 3


SPOILED = [
    moved, corners_cut, lost_contour, filled_hole, doubled_contour, other_slice, lifted, outside, beyond,
    exchanged_regions, other_name, other_volume, other_segmentation, foreign_slices, lost_region, open_contour,
    fewer_points,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_structure_set_is_never_published(case: Case, spoil):
    seg = case.seg()
    structures = dcmread(io.BytesIO(encoded(case.structures(seg))))
    case.verify_structures(structures, seg)
    spoil(structures)
    with pytest.raises(BrokenResultError) as caught:
        case.verify_structures(structures, seg)
    assert "MARKED" not in str(caught.value)


def test_a_contour_twice_in_the_place_of_another_as_large_is_noticed(tmp_path: Path):
    labels = torn_labels()
    labels[2:5, 25:28, 4] = labels[8:11, 25:28, 4] = 1  # two parts of equal size in one slice
    case = Case(tmp_path, small_volume(), turned=Segmentation(labels, Geometry(SHAPE, small_volume().geometry.affine)))
    seg = case.seg()
    structures = dcmread(io.BytesIO(encoded(case.structures(seg))))
    one, two = (each for each in contours_of(structures) if np.isclose(square_mm2(each), 9 * voxel_mm2(case)))
    redrawn(one, points_of(two))
    with pytest.raises(BrokenResultError, match="overlap"):
        case.verify_structures(structures, seg)


def voxel_mm2(case: Case) -> float:
    return float(np.prod(case.segmentation.geometry.spacing_mm[:2]))


def square_mm2(contour) -> float:
    points = points_of(contour)
    return float(np.prod(np.ptp(points[:, :2], axis=0))) if len(points) == 4 else 0.0
