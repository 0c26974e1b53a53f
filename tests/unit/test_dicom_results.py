"""SEG and SR say exactly what was found, on any grid; whatever they say wrongly is noticed before it is published."""

import io

import highdicom as hd
import numpy as np
import pytest
from highdicom._standard_utils import get_module_attribute_map
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag

from app.dicom.readback import BrokenResultError, SegmentationFile, measured_groups, voxels_on
from app.dicom.results import DICOM_FILES, DicomForm, remarks, write_dicom
from app.dicom.seg import encoded
from app.dicom.verification import verify_report, verify_segmentation
from app.imaging.scan import read_scan
from app.imaging.volume import Segmentation
from app.report import measure
from tests.dicom_case import SHA256, Case, labels, lesion_masks
from tests.dicom_files import MARKS, SHAPE, change, enhanced_of, series_of, small_volume, zipped
from tests.nifti_files import oblique
from tests.toy_grids import ORIENTATIONS

PATIENT = {"PatientName", "PatientID", "PatientBirthDate", "PatientSex"}
STUDY = {"StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"}


@pytest.fixture
def case(tmp_path) -> Case:
    return Case(tmp_path, small_volume())


def assert_highdicom_reads(content: bytes, segmentation: Segmentation) -> None:
    """Another reader: highdicom's, which resamples nothing here but places the frames by its own rules."""
    seg = hd.seg.segread(io.BytesIO(content))
    read = seg.get_volume(combine_segments=False)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ read.affine
    for number, mask in lesion_masks(segmentation).items():
        index = np.argwhere(read.array[..., seg.segment_numbers.index(number + 1)])
        points = index @ to_ras[:3, :3].T + to_ras[:3, 3]
        found = np.zeros(segmentation.geometry.shape, bool)
        found[tuple(voxels_on(segmentation.geometry, points).T)] = True
        assert np.array_equal(found, mask)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_what_is_written_is_read_back_as_it_was_found(case, kind, tmp_path):
    assert len(case.report.lesions) == 3
    out = tmp_path / "out"
    out.mkdir()
    write_dicom(out, case.source, case.segmentation, case.report, DicomForm(kind))
    assert {path.name for path in out.iterdir()} == set(DICOM_FILES)
    written = SegmentationFile((out / "seg.dcm").read_bytes())
    found = np.zeros((5, *SHAPE), bool)
    for plane in written.planes():
        found[plane.segment][tuple(voxels_on(case.segmentation.geometry, plane.points_mm()).T)] = True
    masks = lesion_masks(case.segmentation)
    lesions = np.logical_or.reduce([masks[n] for n in (1, 2, 3)])
    assert np.array_equal(found[1], masks[0] if kind == "BINARY" else masks[0] & ~lesions)
    assert all(np.array_equal(found[n + 1], masks[n]) for n in (1, 2, 3))


@pytest.mark.parametrize("codes", ORIENTATIONS[::3])
def test_every_orientation_is_written_where_it_lies(codes, tmp_path):
    volume = small_volume()
    truth = Segmentation(labels(), volume.geometry)
    turned = volume.reoriented(codes)
    scan = read_scan(zipped(tmp_path, series_of(turned)))
    placed = truth.reoriented(scan.volume.geometry.axis_codes)
    case = Case(tmp_path, turned, turned=placed)
    content = encoded(case.seg())
    verify_segmentation(content, case.segmentation, case.segments, case.report, case.source)
    assert_highdicom_reads(content, case.segmentation)
    upright = measure(truth, volume)
    for found, wanted in zip(case.report.lesions, upright.lesions, strict=True):
        assert found.centroid_mm == pytest.approx(wanted.centroid_mm, abs=1e-3)


def test_an_oblique_series_is_written_where_it_lies(tmp_path):
    volume = small_volume(np.diag([1.0, -1.0, 1.0, 1.0]) @ oblique())
    case = Case(tmp_path, volume)
    content = encoded(case.seg())
    verify_segmentation(content, case.segmentation, case.segments, case.report, case.source)
    assert_highdicom_reads(content, case.segmentation)


@pytest.mark.parametrize("order", [range(7), (3, 1, 6, 0, 2, 5, 4)])
def test_a_multi_frame_series_is_written_where_it_lies(order, tmp_path):
    case = Case(tmp_path, small_volume(), files=[enhanced_of(small_volume(), order)])
    seg = case.seg()
    case.verify(seg)
    frame = seg.PerFrameFunctionalGroupsSequence[0]
    named = frame.DerivationImageSequence[0].SourceImageSequence[0]
    k = case.source.images[0].frame_number and list(order)[named.ReferencedFrameNumber - 1]
    place = frame.PlanePositionSequence[0].ImagePositionPatient
    assert [float(mm) for mm in place] == pytest.approx(case.source.images[k].position_mm, abs=1e-6)
    groups = measured_groups(encoded(case.sr(seg)))
    assert len(groups) == 4


def test_each_frame_names_the_slice_it_lies_on(case):
    seg = case.seg()
    for frame in seg.PerFrameFunctionalGroupsSequence:
        named = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        image = next(image for image in case.source.images if image.sop_instance_uid == named)
        place = [float(mm) for mm in frame.PlanePositionSequence[0].ImagePositionPatient]
        assert place == pytest.approx(image.position_mm, abs=1e-6)


def test_segments_say_what_they_are_and_what_drew_them(case):
    written = SegmentationFile(encoded(case.seg()))
    assert [info.label for info in written.segments.values()] == ["Liver", "Lesion 1", "Lesion 2", "Lesion 3"]
    assert [info.property_code for info in written.segments.values()] == ["10200004"] + ["52988006"] * 3
    assert written.segments[1].algorithm == ("Hepaseg liver", "1.2.3", f"network_sha256={SHA256['liver']}")
    assert written.segments[2].algorithm == ("Hepaseg lesion", "1.2.3", f"network_sha256={SHA256['lesion']}")


def test_the_structured_report_has_the_numbers_of_the_report_on_the_same_segments(case):
    seg = case.seg()
    groups = measured_groups(encoded(case.sr(seg)))
    written = SegmentationFile(encoded(seg))
    assert {group.segment: group.tracking_uid for group in groups} == {
        number: info.tracking_uid for number, info in written.segments.items()
    }
    by_segment = {group.segment: group.values for group in groups}
    assert by_segment[1]["118565006", "ml"] == pytest.approx(case.report.liver.volume_ml, rel=1e-9)
    assert by_segment[1]["lesion-burden", "1"] == pytest.approx(case.report.lesion_burden, rel=1e-9)
    for lesion in case.report.lesions:
        values = by_segment[lesion.id + 1]
        assert values["118565006", "ml"] == pytest.approx(lesion.volume_ml, rel=1e-9)
        assert values["103339001", "mm"] == pytest.approx(lesion.longest_axial_diameter_mm, rel=1e-9)
        assert values["103340004", "mm"] == pytest.approx(lesion.perpendicular_diameter_mm, rel=1e-9)
        assert values["112031", "[hnsf'U]"] == pytest.approx(lesion.mean_hu, rel=1e-9)
    burdens = [by_segment[n]["lesion-burden", "1"] for n in (2, 3, 4)]
    assert sum(burdens) == pytest.approx(case.report.lesion_burden, rel=1e-9)


def test_patient_and_study_are_copied_as_far_as_the_standard_requires_and_no_farther(case):
    seg = case.seg()
    for dataset in (dcmread(io.BytesIO(encoded(each))) for each in (seg, case.sr(seg))):
        for keyword in (PATIENT | STUDY) - {"PatientSex", "StudyDate", "StudyTime"}:
            assert str(dataset[keyword].value) == MARKS[keyword]
        assert {keyword_for_tag(each.tag) for each in dataset.group_dataset(0x0010)} == PATIENT
        assert "MARKEDHOSPITAL" not in str(dataset)
        assert "MARKEDCOMMENT" not in str(dataset)
    assert seg.FrameOfReferenceUID == MARKS["FrameOfReferenceUID"]


#: The modules of the standard that say who was scanned, why, where and by whom.
ABOUT_SOMEBODY = (
    "patient", "patient-study", "clinical-trial-subject", "general-study", "clinical-trial-study", "general-equipment",
    "clinical-trial-series",
)  # fmt: skip


def attributes_of(module: str, *types: str) -> set[str]:
    """The attributes at the top of a module that have one of these types, after the tables of the standard."""
    entries = [each for each in get_module_attribute_map()[module] if not each["path"]]
    return {each["keyword"] for each in entries if not types or each["type"] in types}


def marked_everywhere() -> list[Dataset]:
    """A series that says everything that the standard has a word for, each word marked."""
    made = series_of(small_volume())
    texts = {"LO", "SH", "PN", "LT", "ST", "UT", "AE", "UC"}
    for keyword in sorted(set().union(*(attributes_of(module) for module in ABOUT_SOMEBODY))):
        if dictionary_VR(keyword) in texts:
            for each in made:
                setattr(each, keyword, MARKS.get(keyword, "MARKEDMORE"))
    for each in made:
        each.private_block(0x0031, "MARKEDMAKER", create=True).add_new(1, "LO", "MARKEDPRIVATE")
    return made


@pytest.mark.parametrize("result", ["seg", "sr", "rtstruct"])
def test_of_all_that_a_series_can_say_results_have_what_the_standard_requires_and_nothing_else(tmp_path, result):
    case = Case(tmp_path, small_volume(), files=marked_everywhere())
    seg = case.seg()
    written = {"seg": lambda: seg, "sr": lambda: case.sr(seg), "rtstruct": lambda: case.structures(seg)}[result]()
    dataset = dcmread(io.BytesIO(encoded(written)))
    required = PATIENT | STUDY
    assert required == attributes_of("patient", "1", "2") | attributes_of("general-study", "1", "2")
    about = set().union(*(attributes_of(module) for module in ABOUT_SOMEBODY[:-1]))
    # What made the file is this software, and said of itself.
    own = {"Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"}
    assert {element.keyword for element in dataset if element.keyword in about} - own == required
    found = {element.keyword for element in dataset.iterall() if "MARKED" in str(element.value)[:200]}
    assert {keyword for keyword in found if keyword and dictionary_VR(keyword) != "SQ"} <= required
    assert not any(element.tag.is_private for element in dataset.iterall())


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jérôme"),
        ("ISO_IR 192", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_in_any_script_survive(tmp_path, character_set, name):
    files = [
        change(each, {"SpecificCharacterSet": character_set, "PatientName": name}) for each in series_of(small_volume())
    ]
    case = Case(tmp_path, small_volume(), files=files)
    seg = case.seg()
    for dataset in (seg, case.sr(seg)):
        assert str(dcmread(io.BytesIO(encoded(dataset))).PatientName) == name


def test_values_that_no_result_may_have_are_left_empty(tmp_path):
    odd = {"PatientBirthDate": "someday", "PatientSex": "unknown", "StudyTime": "at noon", "StudyDate": ""}
    case = Case(tmp_path, small_volume(), files=[change(each, odd) for each in series_of(small_volume())])
    seg = case.seg()
    assert not any(seg[keyword].value for keyword in odd)


def mirrored(seg):
    count, size = len(seg.PerFrameFunctionalGroupsSequence), seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: count * size]
    frames = bits.reshape(count, seg.Rows, seg.Columns)[:, :, ::-1]
    seg.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes().ljust(len(seg.PixelData), b"\0")


def one_bit(seg):
    data = bytearray(seg.PixelData)
    data[len(data) // 2] ^= 0x10
    seg.PixelData = bytes(data)


def shifted_rows(seg):
    for frame in seg.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [
            place.ImagePositionPatient[0],
            place.ImagePositionPatient[1] + 0.9,
            place.ImagePositionPatient[2],
        ]


def half_a_voxel(seg):
    for frame in seg.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [place.ImagePositionPatient[0] + 0.4, *place.ImagePositionPatient[1:]]


def swapped_slices(seg):
    frames = seg.PerFrameFunctionalGroupsSequence
    first, last = frames[0].PlanePositionSequence, frames[3].PlanePositionSequence
    frames[0].PlanePositionSequence, frames[3].PlanePositionSequence = last, first


def turned(seg):
    group = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    group.ImageOrientationPatient = [
        *group.ImageOrientationPatient[:3],
        *(-v for v in group.ImageOrientationPatient[3:]),
    ]


def wrong_spacing(seg):
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = "2.6"


def lost_frame(seg):
    del seg.PerFrameFunctionalGroupsSequence[-1]
    seg.NumberOfFrames -= 1


def doubled_frame(seg):
    seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence = seg.PerFrameFunctionalGroupsSequence[
        0
    ].PlanePositionSequence


def exchanged_segments(seg):
    for frame in seg.PerFrameFunctionalGroupsSequence:
        item = frame.SegmentIdentificationSequence[0]
        item.ReferencedSegmentNumber = {2: 3, 3: 2}.get(item.ReferencedSegmentNumber, item.ReferencedSegmentNumber)


def exchanged_tracking(seg):
    one, two = seg.SegmentSequence[1:3]
    one.TrackingUID, two.TrackingUID = two.TrackingUID, one.TrackingUID


def foreign_source(seg):
    seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[
        0
    ].ReferencedSOPInstanceUID = "1.2.3"


SPOILED = [
    mirrored, one_bit, shifted_rows, half_a_voxel, swapped_slices, turned, wrong_spacing, lost_frame, doubled_frame,
    exchanged_segments, exchanged_tracking, foreign_source,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_segmentation_is_never_published(case, spoil):
    seg = case.seg()
    case.verify(seg)
    spoil(seg)
    with pytest.raises(BrokenResultError) as caught:
        case.verify(seg)
    assert "MARKED" not in str(caught.value)


def numeric(sr):
    """The items that hold a number, in order."""
    found = []

    def walk(item):
        for child in item.get("ContentSequence", []):
            if child.ValueType == "NUM":
                found.append(child.MeasuredValueSequence[0])
            walk(child)

    walk(sr)
    return found


@pytest.mark.parametrize("which", range(18))
def test_a_wrong_number_in_the_structured_report_is_never_published(case, which):
    seg = case.seg()
    sr = case.sr(seg)
    verify_report(encoded(sr), seg.SOPInstanceUID, case.segments, case.report)
    item = numeric(sr)[which]
    item.NumericValue = float(item.NumericValue) * 1.0001
    with pytest.raises(BrokenResultError):
        verify_report(encoded(sr), seg.SOPInstanceUID, case.segments, case.report)


def test_a_structured_report_on_another_segmentation_is_never_published(case):
    sr = case.sr(case.seg())
    with pytest.raises(BrokenResultError):
        verify_report(encoded(sr), case.seg().SOPInstanceUID, case.segments, case.report)


def test_nothing_is_written_where_masks_and_report_do_not_agree(case, tmp_path):
    wrong = case.report.lesions[0].model_copy(update={"volume_ml": case.report.lesions[0].volume_ml * 1.02})
    report = case.report.model_copy(update={"lesions": (wrong, *case.report.lesions[1:])})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BrokenResultError):
        write_dicom(out, case.source, case.segmentation, report)
    assert list(out.iterdir()) == []


def test_more_lesions_than_anyone_looks_at_are_left_out_and_said_so():
    assert remarks(999) == ()
    assert [finding.code for finding in remarks(1000)] == ["lesions_not_in_dicom"]
