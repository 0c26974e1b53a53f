"""A zipped DICOM series becomes the volume it was made of: whatever the order, names, orientation or compression."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from app.errors import CorruptFile, InputError, InvalidRequest
from app.imaging.scan import Limits, probe_scan, read_scan
from app.imaging.volume import Geometry, Volume
from tests.dicom_files import (
    LPS_AFFINE,
    MARKED_WORDS,
    MARKS,
    ROOT,
    SHAPE,
    change,
    compressed,
    enhanced_of,
    named,
    packed,
    put_pixels,
    series_of,
    signed,
    small_volume,
    with_meta,
    zipped,
)
from tests.nifti_files import oblique, straight

#: JPEG in its lossless form, JPEG-LS, JPEG 2000 and RLE give back every bit.
LOSSLESS = [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLossless, uid.JPEGLosslessSV1]
ORIENTATIONS = [
    "".join(pair[sign] for pair, sign in zip(axes, signs, strict=True))
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for signs in itertools.product((0, 1), repeat=3)
]


def assert_same(found: Volume, wanted: Volume) -> None:
    """Each voxel at its place in the patient, however the array is stored."""
    codes = wanted.geometry.axis_codes
    turned = found.reoriented(codes)
    assert turned.geometry.shape == wanted.geometry.shape
    assert turned.geometry.apart_mm(wanted.geometry) < 1e-4
    assert np.array_equal(turned.voxels, wanted.voxels)


def codes_of(scan) -> list[str]:
    return [note.code for note in scan.notes]


@pytest.fixture(scope="module")
def volume() -> Volume:
    return small_volume()


def test_a_series_is_read_as_the_volume_it_was_made_of(volume, tmp_path):
    scan = read_scan(zipped(tmp_path, series_of(volume)))
    assert scan.volume.geometry.axis_codes == "LPS"
    assert scan.volume.voxels.flags.f_contiguous
    assert np.array_equal(scan.volume.voxels, volume.voxels)
    assert scan.volume.geometry.apart_mm(volume.geometry) < 1e-6
    assert scan.notes == ()


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(SHAPE[2])),
    numbers=st.permutations(range(SHAPE[2])),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
)
def test_neither_names_nor_numbers_nor_order_matter_on_any_oblique_grid(
    tmp_path_factory, order, numbers, angles, spacing
):
    volume = small_volume(oblique(spacing, (-31.0, 17.0, -412.5), angles))
    slices = series_of(volume)
    for dataset, number in zip(slices, numbers, strict=True):
        dataset.InstanceNumber, dataset.SliceLocation = number, 3 * number
    assert_same(read_scan(zipped(tmp_path_factory.mktemp("zip"), [slices[k] for k in order])).volume, volume)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_slices_of_every_orientation_and_handedness_keep_their_place(volume, tmp_path, codes):
    turned = volume.reoriented(codes)
    assert_same(read_scan(zipped(tmp_path, series_of(turned))).volume, turned)


def test_the_probe_says_the_grid_without_touching_a_pixel(volume, tmp_path):
    slices = series_of(volume)
    path = zipped(tmp_path, [change(each, {"PixelData": b"\0\0"}) for each in slices])
    header = probe_scan(path)
    assert (header.shape, header.geometry.axis_codes) == (SHAPE, "LPS")
    assert header.geometry.spacing_mm == pytest.approx(volume.geometry.spacing_mm)
    with pytest.raises(InputError):
        read_scan(path)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda each: each.name)
@pytest.mark.parametrize("is_signed", [False, True])
def test_every_lossless_compression_gives_back_every_voxel(volume, tmp_path, syntax, is_signed):
    slices = series_of(volume)
    if is_signed:
        slices = [signed(each, volume.voxels[:, :, k].T) for k, each in enumerate(slices)]
    path = zipped(tmp_path, [compressed(each, syntax) for each in slices])
    assert_same(read_scan(path).volume, volume)


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda each: each.name)
def test_twelve_bits_are_as_good_as_sixteen_in_every_compression(volume, tmp_path, syntax, is_signed):
    slices = series_of(volume)
    for k, dataset in enumerate(slices):
        stored = volume.voxels[:, :, k].T + (0 if is_signed else 1024)
        put_pixels(dataset, (stored.astype(np.int16) & 0xFFF).astype(np.uint16))
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, int(is_signed)
        dataset.RescaleIntercept = 0 if is_signed else -1024
    assert_same(read_scan(zipped(tmp_path, [compressed(each, syntax) for each in slices])).volume, volume)


def test_lossy_jpeg_of_twelve_bits_is_read_nearly_as_it_was(tmp_path):
    smooth = np.add.outer(np.arange(37) * 20, np.arange(33) * 25)[:, :, None].repeat(3, axis=2) - 900
    volume = Volume(np.asfortranarray(smooth.astype(np.int16)), Geometry((37, 33, 3), LPS_AFFINE))
    slices = series_of(volume, BitsStored=12, HighBit=11, LossyImageCompression="01")
    scan = read_scan(zipped(tmp_path, [compressed(each, uid.JPEGExtended12Bit) for each in slices]))
    assert np.abs(scan.volume.voxels.astype(int) - smooth).max() <= 8
    assert scan.dicom.patient_and_study.LossyImageCompression == "01"


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_other_uncompressed_encodings_are_read(volume, tmp_path, syntax):
    files = {}
    for k, dataset in enumerate(series_of(volume)):
        if syntax == uid.ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        again = with_meta(Dataset(dataset), syntax)
        path = tmp_path / f"{k}"
        again.save_as(
            path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, enforce_file_format=True
        )
        files[path.name] = path.read_bytes()
    assert_same(read_scan(zipped(tmp_path, files)).volume, volume)


def test_each_slice_has_its_own_slope_and_intercept(volume, tmp_path):
    slices = series_of(volume)
    for k, dataset in enumerate(slices):
        hu = volume.voxels[:, :, k].T.astype(np.int32)
        put_pixels(dataset, ((hu + 1024 + 10 * k) * 2).astype(np.uint16))
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", str(-1024 - 10 * k)
    assert_same(read_scan(zipped(tmp_path, slices)).volume, volume)


def test_bits_above_those_used_are_not_grey_values(volume, tmp_path):
    slices = series_of(volume)
    for dataset in slices:
        stored = np.frombuffer(dataset.PixelData, "<u2").reshape(SHAPE[1], SHAPE[0])
        put_pixels(dataset, stored | np.uint16(0x3000))  # an old overlay
        dataset.BitsStored, dataset.HighBit = 12, 11
    assert_same(read_scan(zipped(tmp_path, slices)).volume, volume)


@pytest.mark.parametrize("order", [range(7), range(6, -1, -1), (3, 1, 6, 0, 2, 5, 4)])
def test_a_multi_frame_file_is_sorted_by_place_too(volume, tmp_path, order):
    assert_same(read_scan(zipped(tmp_path, [enhanced_of(volume, order)])).volume, volume)


def test_a_compressed_multi_frame_file_is_read_frame_by_frame(volume, tmp_path):
    dataset = enhanced_of(volume, (3, 1, 6, 0, 2, 5, 4))
    dataset.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    assert_same(read_scan(zipped(tmp_path, [dataset])).volume, volume)


def test_padding_far_below_air_is_read_as_air_and_noted(volume, tmp_path):
    slices = series_of(volume)
    for k, dataset in enumerate(slices):
        hu = volume.voxels[:, :, k].T.astype(np.int16).copy()
        hu[:2] = -2000
        signed(dataset, hu)
        dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)  # without its sign, as some write it
    scan = read_scan(zipped(tmp_path, slices))
    assert (scan.volume.voxels[:, :2] == -1024).all()
    assert np.array_equal(scan.volume.voxels[:, 2:], volume.voxels[:, 2:])
    assert codes_of(scan) == ["padding"]


def test_padding_with_a_value_of_tissue_is_left_alone(volume, tmp_path):
    slices = [change(each, {}) for each in series_of(volume)]
    for dataset in slices:
        dataset.add_new("PixelPaddingValue", "US", 1024 + 40)  # 40 HU
    assert_same(read_scan(zipped(tmp_path, slices)).volume, volume)


def test_a_slice_sent_twice_is_read_once_and_noted(volume, tmp_path):
    slices = series_of(volume)
    again = change(series_of(volume)[2], {"SOPInstanceUID": f"{ROOT}.4.99"})
    scan = read_scan(zipped(tmp_path, [*slices, again]))
    assert_same(scan.volume, volume)
    assert codes_of(scan) == ["doubled_slices"]


def test_junk_directories_and_closed_archives_beside_the_series_are_passed_over(volume, tmp_path):
    inner = zipped(tmp_path, series_of(volume)).read_bytes()
    directory = with_meta(change(Dataset(), {"SOPClassUID": "1.2.840.10008.1.3.10", "SOPInstanceUID": f"{ROOT}.9"}))
    files = named(series_of(volume), "DATA/ERIKA/a/b/c") | {
        "DICOMDIR": packed(directory), "autorun.inf": b"[autorun]", "viewer/VIEWER.EXE": b"MZ" + bytes(9000),
        "__MACOSX/._IM0001": bytes(200), "more.zip": inner, "empty": b"", "readme.txt": b"hello", "folder/": b"",
    }  # fmt: skip
    assert_same(read_scan(zipped(tmp_path, files)).volume, volume)


def test_localizers_are_left_out_and_noted(volume, tmp_path):
    localizer = change(series_of(volume)[0], {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    localizer.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    scan = read_scan(zipped(tmp_path, [localizer, *series_of(volume)]))
    assert_same(scan.volume, volume)
    assert codes_of(scan) == ["localizer_ignored"]


def test_results_and_reports_of_others_beside_the_series_are_passed_over(volume, tmp_path):
    other = with_meta(Dataset())
    change(other, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "Modality": "SR", "SOPInstanceUID": f"{ROOT}.8"})
    other.SeriesInstanceUID = f"{ROOT}.3.8"
    assert_same(read_scan(zipped(tmp_path, [with_meta(other), *series_of(volume)])).volume, volume)


@pytest.fixture
def two_series(volume, tmp_path):
    coronal = Volume(np.asfortranarray(volume.voxels[::-1]), Geometry(SHAPE, LPS_AFFINE)).reoriented("LSP")
    series = series_of(volume)
    other = [
        change(each, {"SeriesInstanceUID": f"{ROOT}.3.777", "SOPInstanceUID": f"{ROOT}.5.{k}"})
        for k, each in enumerate(series_of(coronal))
    ]
    return zipped(tmp_path, [*series, *other]), volume, coronal


def test_several_series_are_listed_so_that_one_can_be_named(two_series):
    path, _, _ = two_series
    with pytest.raises(InputError) as caught:
        read_scan(path)
    assert caught.value.code == "several_series"
    assert "7 slices, axial, 37 x 33" in caught.value.detail
    assert "33 slices, coronal, 37 x 7" in caught.value.detail
    assert "…23456789" in caught.value.detail
    assert not any(word in caught.value.detail for word in MARKED_WORDS)


@pytest.mark.parametrize("wanted", [f"{ROOT}.3.777", "4711.3.777", "…4711.3.777"])
def test_a_series_is_selected_by_its_uid_or_the_end_of_it(two_series, wanted):
    path, _, coronal = two_series
    assert_same(read_scan(path, series_uid=wanted).volume, coronal)
    assert probe_scan(path, series_uid=wanted).shape == (37, 7, 33)


def test_an_unknown_series_is_refused_with_the_list(two_series):
    with pytest.raises(InvalidRequest, match="7 slices, axial") as caught:
        read_scan(two_series[0], series_uid="1.2.3")
    assert caught.value.code == "unknown_series"


def test_a_nifti_file_has_no_series_to_select(tmp_path):
    (tmp_path / "scan").write_bytes(b"\x5c\x01\x00\x00")
    with pytest.raises(InvalidRequest):
        read_scan(tmp_path / "scan", series_uid="1.2.3")


def test_more_voxels_than_allowed_are_refused_before_a_pixel_is_read(volume, tmp_path):
    path = zipped(tmp_path, series_of(volume))
    assert read_scan(path, Limits(max_voxels=37 * 33 * 7)).volume.geometry.shape == SHAPE
    with pytest.raises(InputError) as caught:
        probe_scan(path, Limits(max_voxels=37 * 33 * 7 - 1))
    assert caught.value.code == "too_large"


def test_what_results_refer_to_is_in_the_order_of_the_slices(volume, tmp_path):
    slices = series_of(volume)
    source = read_scan(zipped(tmp_path, slices[::-1])).dicom
    assert [image.sop_instance_uid for image in source.images] == [each.SOPInstanceUID for each in slices]
    assert source.series_uid == MARKS["SeriesInstanceUID"]
    assert not any(word in repr(source) for word in MARKED_WORDS)


def test_a_series_without_identifiers_is_read_and_noted(volume, tmp_path):
    empty = {"SOPInstanceUID": "", "SeriesInstanceUID": "", "StudyInstanceUID": "", "SOPClassUID": ""}
    scan = read_scan(zipped(tmp_path, [change(each, empty) for each in series_of(volume)]))
    assert_same(scan.volume, volume)
    assert codes_of(scan) == ["uids_missing"]
    assert [image.sop_instance_uid for image in scan.dicom.images] == [f"{ROOT}.4.{k + 1}" for k in range(7)]


def test_damage_in_meta_information_that_is_not_needed_is_refused_and_no_bug(volume, tmp_path):
    files = named(series_of(volume))
    name = list(files)[1]
    files[name] = files[name].replace(b"\x02\x00\x02\x00UI", b"\x02\x00\x02\x00U\0", 1)
    with pytest.raises(CorruptFile):
        read_scan(zipped(tmp_path, files))


def test_slices_that_share_one_identifier_get_their_own_and_it_is_noted(volume, tmp_path):
    scan = read_scan(zipped(tmp_path, [change(each, {"SOPInstanceUID": f"{ROOT}.4"}) for each in series_of(volume)]))
    assert_same(scan.volume, volume)
    assert codes_of(scan) == ["uids_missing"]
    uids = {image.sop_instance_uid for image in scan.dicom.images}
    assert len(uids) == len(scan.dicom.images)
    assert f"{ROOT}.4" not in uids


def test_a_header_longer_than_what_is_read_first_is_read_whole(volume, tmp_path):
    slices = [change(each, {"EncapsulatedDocument": bytes(200_000)}) for each in series_of(volume)]
    assert_same(read_scan(zipped(tmp_path, slices)).volume, volume)


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even_enough(tmp_path):
    volume = small_volume(np.diag([-1.0, -1.0, 1.0, 1.0]) @ straight((0.8, 0.9, 0.75)))
    slices = series_of(volume)
    for dataset in slices:
        dataset.ImagePositionPatient = [f"{float(mm):.1f}" for mm in dataset.ImagePositionPatient]
    scan = read_scan(zipped(tmp_path, slices))
    assert np.array_equal(scan.volume.voxels, volume.voxels)
    assert scan.volume.geometry.apart_mm(volume.geometry) < 0.15


def test_the_source_files_are_read_from_bytes_as_they_were_sent(volume, tmp_path):
    """The builder of these tests itself: what it writes is what pydicom reads."""
    first = series_of(volume)[0]
    (tmp_path / "file").write_bytes(packed(first))
    assert np.array_equal(dcmread(tmp_path / "file").pixel_array, volume.voxels[:, :, 0].T + 1024)
