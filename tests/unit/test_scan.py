"""What is read is what NiBabel reads; what cannot be a scan is refused with a code, at no cost."""

import contextlib
import gzip
import hashlib
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import (
    CorruptFile,
    InputError,
    InvalidGeometry,
    InvalidReference,
    InvalidVoxels,
    TooLarge,
    UnsupportedFormat,
)
from app.imaging.scan import Limits, Scan, probe_scan, read_labels, read_scan
from app.imaging.stream import PADDING_BYTES
from app.imaging.volume import Geometry
from tests.nifti_files import altered, image, oblique, packed, saved, straight

SHAPE = (5, 4, 3)
HOUNSFIELD = (np.arange(60, dtype=np.int16) * 37 - 1000).reshape(SHAPE, order="F")
NII = packed(image(HOUNSFIELD))


def codes(scan: Scan) -> list[str]:
    return [note.code for note in scan.notes]


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("scaling", [None, (0.5, -1024.0), (1.0, -1024.0)])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_values_and_affine_are_those_of_nibabel(tmp_path, dtype, scaling, byte_order, version, gz):
    stored = (np.arange(60) % 120).reshape(SHAPE).astype(dtype)
    picture = image(stored, oblique(), version=version, byte_order=byte_order)
    content = bytearray(packed(picture))
    if scaling:
        record, offset = ("f", 112) if version == 1 else ("d", 176)
        struct.pack_into(f"{byte_order}2{record}", content, offset, *scaling)
    path = saved(tmp_path, bytes(content), gz=gz)
    truth = nib.load(saved(tmp_path, bytes(content), "truth.nii"))

    scan = read_scan(path)

    assert scan.volume.voxels.dtype == np.int16
    assert np.array_equal(scan.volume.voxels, np.rint(truth.get_fdata()))
    assert np.array_equal(scan.volume.geometry.affine, truth.affine)
    assert scan.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert scan.notes == ()


def test_voxels_are_in_file_order_so_that_slices_cost_no_copy(tmp_path):
    for stored in (HOUNSFIELD, HOUNSFIELD.astype(np.float32)):
        assert read_scan(saved(tmp_path, packed(image(stored)))).volume.voxels.flags.f_contiguous


def test_a_scan_of_several_blocks_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("app.imaging.nifti._BLOCK_VOXELS", 7)
    scan = read_scan(saved(tmp_path, packed(image(HOUNSFIELD.astype(np.int32))), gz=True))
    assert np.array_equal(scan.volume.voxels, HOUNSFIELD)


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_a_slope_of_zero_or_none_means_no_scaling(tmp_path, slope):
    scan = read_scan(saved(tmp_path, altered(NII, scl_slope=slope, scl_inter=5.0)))
    assert np.array_equal(scan.volume.voxels, HOUNSFIELD)


def test_fractions_are_rounded_to_the_nearest_hounsfield_unit(tmp_path):
    stored = np.full(SHAPE, -10.6, np.float32)
    assert read_scan(saved(tmp_path, packed(image(stored)))).volume.voxels.max() == -11


def test_voxels_begin_where_the_header_says(tmp_path):
    moved = altered(NII[:352], vox_offset=400) + bytes(48) + NII[352:]
    assert np.array_equal(read_scan(saved(tmp_path, moved)).volume.voxels, HOUNSFIELD)


def test_the_name_of_a_file_means_nothing(tmp_path):
    assert read_scan(saved(tmp_path, NII, "photo.jpg", gz=True)).volume.geometry.shape == SHAPE
    assert read_scan(saved(tmp_path, NII, "scan.nii.gz")).volume.geometry.shape == SHAPE


def test_a_trailing_axis_of_one_is_no_fourth_dimension(tmp_path):
    scan = read_scan(saved(tmp_path, altered(NII, dim={0: 5, 4: 1, 5: 1})))
    assert scan.volume.geometry.shape == SHAPE


def test_gzip_members_one_after_the_other_are_one_file(tmp_path):
    path = tmp_path / "scan"
    path.write_bytes(gzip.compress(NII[:400]) + gzip.compress(NII[400:]))
    assert np.array_equal(read_scan(path).volume.voxels, HOUNSFIELD)


def test_a_little_padding_at_the_end_is_allowed(tmp_path):
    for gz in (False, True):
        assert read_scan(saved(tmp_path, NII + bytes(512), gz=gz)).volume.geometry.shape == SHAPE


def test_padding_below_int16_is_clipped_with_a_note(tmp_path):
    stored = HOUNSFIELD.astype(np.int32)
    stored[0] = -100_000
    scan = read_scan(saved(tmp_path, packed(image(stored))))
    assert codes(scan) == ["clipped_values"]
    assert scan.volume.voxels[0].max() == -32768
    assert np.array_equal(scan.volume.voxels[1:], HOUNSFIELD[1:])


def test_a_probe_says_what_the_whole_file_will_be(tmp_path):
    path = saved(tmp_path, packed(image(HOUNSFIELD, np.diag([-0.75, -0.75, 2.5, 1.0]))), gz=True)
    header = probe_scan(path)
    assert (header.shape, header.geometry.axis_codes, header.dtype) == (SHAPE, "LPS", "int16")
    assert header.geometry.spacing_mm == (0.75, 0.75, 2.5)
    assert header.notes == ()


# --- one rule for orientation -----------------------------------------------------------------------------------------


def both(sform, qform, sform_code=1, qform_code=1) -> bytes:
    picture = image(HOUNSFIELD)
    picture.set_qform(qform, qform_code)
    picture.set_sform(sform, sform_code)
    return packed(picture)


def test_the_sform_wins_over_a_qform_that_disagrees_with_a_note(tmp_path):
    scan = read_scan(saved(tmp_path, both(straight(), straight(origin=(0.0, 0.0, 0.0)))))
    np.testing.assert_allclose(scan.volume.geometry.affine, straight(), rtol=1e-6)
    assert codes(scan) == ["qform_sform_conflict"]


def test_a_qform_that_is_a_rounding_error_away_is_no_conflict(tmp_path):
    near = straight(origin=(-20.01, 15.0, -300.0))
    assert codes(read_scan(saved(tmp_path, both(straight(), near)))) == []


def test_an_unusable_qform_does_not_matter_beside_a_sform(tmp_path):
    assert codes(read_scan(saved(tmp_path, altered(NII, quatern_b=np.nan)))) == ["qform_sform_conflict"]


def test_the_qform_is_taken_where_there_is_no_sform(tmp_path):
    path = saved(tmp_path, both(None, oblique(), sform_code=0))
    np.testing.assert_allclose(read_scan(path).volume.geometry.affine, oblique(), atol=1e-5)
    np.testing.assert_allclose(read_scan(path).volume.geometry.affine, nib.load(path).affine, atol=1e-9)


def test_a_left_handed_qform_is_read_as_nibabel_reads_it(tmp_path):
    flipped = oblique() @ np.diag([1.0, 1.0, -1.0, 1.0])
    path = saved(tmp_path, both(None, flipped, sform_code=0))
    np.testing.assert_allclose(read_scan(path).volume.geometry.affine, flipped, atol=1e-5)


def test_a_file_without_orientation_is_read_as_nibabel_reads_it_with_a_note(tmp_path):
    path = saved(tmp_path, altered(NII, sform_code=0, qform_code=0))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.volume.geometry.affine, nib.load(path).affine)
    assert codes(scan) == ["no_orientation"]


def test_other_voxel_sizes_than_those_of_the_sform_are_noted(tmp_path):
    path = saved(tmp_path, altered(NII, qform_code=0, pixdim={1: 1.5}))
    assert codes(read_scan(path)) == ["pixdim_conflict"]


def test_lengths_in_metres_are_noted(tmp_path):
    assert codes(read_scan(saved(tmp_path, altered(NII, xyzt_units=1)))) == ["units_ignored"]


# --- what is refused --------------------------------------------------------------------------------------------------

TILTED = straight()
TILTED[1, 2] = 0.4
SLICE_2D = altered(NII, dim={0: 2, 3: 1})

REFUSED = {
    "an empty file": (b"", UnsupportedFormat, "empty_file"),
    "an empty gzip": (gzip.compress(b""), UnsupportedFormat, "empty_file"),
    "a JPEG": (b"\xff\xd8\xff\xe0" + bytes(1000), UnsupportedFormat, "unsupported_format"),
    "a gzipped PNG": (gzip.compress(b"\x89PNG\r\n" + bytes(999)), UnsupportedFormat, "unsupported_format"),
    "a PDF": (b"%PDF-1.7" + bytes(1000), UnsupportedFormat, "unsupported_format"),
    "a DICOM file": (bytes(128) + b"DICM" + bytes(900), UnsupportedFormat, "unsupported_format"),
    "a zip": (b"PK\x03\x04" + bytes(900), CorruptFile, "corrupt_file"),
    "an NRRD": (b"NRRD0004\n" + bytes(900), UnsupportedFormat, "unsupported_format"),
    "text": (b"not a scan", UnsupportedFormat, "unsupported_format"),
    "a wrong magic": (altered(NII, magic=b"n+9"), UnsupportedFormat, "unsupported_format"),
    "a header of a pair": (altered(NII, magic=b"ni1"), UnsupportedFormat, "unsupported_format"),
    "an ANALYZE header": (altered(NII, magic=b""), UnsupportedFormat, "unsupported_format"),
    "twice gzipped": (gzip.compress(gzip.compress(NII, 0)), UnsupportedFormat, "unsupported_format"),
    "gzip magic, then noise": (b"\x1f\x8b" + b"\x07" * 500, CorruptFile, "corrupt_file"),
    "a wrong header size": (altered(NII, sizeof_hdr=7), CorruptFile, "corrupt_file"),
    "half a header": (NII[:200], CorruptFile, "corrupt_file"),
    "half a NIfTI-2 header": (packed(image(HOUNSFIELD, version=2))[:400], CorruptFile, "corrupt_file"),
    "eight dimensions": (altered(NII, dim={0: 8}), CorruptFile, "corrupt_file"),
    "voxels within the header": (altered(NII, vox_offset=100), CorruptFile, "corrupt_file"),
    "voxels beyond reason": (altered(NII, vox_offset=1e12), CorruptFile, "corrupt_file"),
    "voxels at NaN": (altered(NII, vox_offset=np.nan), CorruptFile, "corrupt_file"),
    "a truncated file": (NII[:-1], CorruptFile, "corrupt_file"),
    "a truncated gzip": (gzip.compress(NII)[:-30], CorruptFile, "corrupt_file"),
    "a truncated trailer": (gzip.compress(NII)[:-3], CorruptFile, "corrupt_file"),
    "a gzip of a truncated file": (gzip.compress(NII[:-1]), CorruptFile, "corrupt_file"),
    "a wrong checksum": (gzip.compress(NII)[:-8] + bytes(8), CorruptFile, "corrupt_file"),
    "rubbish after the gzip": (gzip.compress(NII) + b"rubbish", CorruptFile, "corrupt_file"),
    "far more than announced": (NII + bytes(PADDING_BYTES + 1), CorruptFile, "corrupt_file"),
    "2-D": (SLICE_2D, InvalidGeometry, "invalid_geometry"),
    "4-D": (altered(NII, dim={0: 4, 4: 2}), InvalidGeometry, "invalid_geometry"),
    "an axis of no voxels": (altered(NII, dim={2: 0}), InvalidGeometry, "invalid_geometry"),
    "an axis of fewer": (altered(NII, dim={2: -4}), InvalidGeometry, "invalid_geometry"),
    "zero spacing": (altered(NII, pixdim={3: 0}), InvalidGeometry, "invalid_geometry"),
    "NaN spacing": (altered(NII, pixdim={1: np.nan}), InvalidGeometry, "invalid_geometry"),
    "tiny voxels": (packed(image(HOUNSFIELD, straight((0.001, 1, 1)))), InvalidGeometry, "invalid_geometry"),
    "huge voxels": (packed(image(HOUNSFIELD, straight((1, 1, 99)))), InvalidGeometry, "invalid_geometry"),
    "NaN affine": (altered(NII, srow_x={1: np.nan}), InvalidGeometry, "invalid_geometry"),
    "infinite affine": (altered(NII, srow_y={3: np.inf}), InvalidGeometry, "invalid_geometry"),
    "a far away affine": (altered(NII, srow_y={3: 1e30}), InvalidGeometry, "invalid_geometry"),
    "a singular affine": (altered(NII, srow_y=(0.8, 0, 0, 0)), InvalidGeometry, "invalid_geometry"),
    "no rotation": (altered(NII, sform_code=0, quatern_b=3), InvalidGeometry, "invalid_geometry"),
    "a gantry tilt": (both(TILTED, straight()), InvalidGeometry, "sheared_grid"),
    "RGB": (altered(NII, datatype=128), InvalidVoxels, "invalid_voxels"),
    "complex numbers": (altered(NII, datatype=32), InvalidVoxels, "invalid_voxels"),
    "an unknown datatype": (altered(NII, datatype=77), InvalidVoxels, "invalid_voxels"),
    "an endless intercept": (altered(NII, scl_slope=1, scl_inter=np.inf), InvalidVoxels, "invalid_voxels"),
    "100 GB": (altered(NII, dim=(3, 32767, 32767, 47, 1, 1, 1, 1)), TooLarge, "too_large"),
    "64 TB": (altered(NII, dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)), TooLarge, "too_large"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_scan_is_refused_with_a_code_and_no_memory(tmp_path, what):
    content, error, code = REFUSED[what]
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(error) as caught:
        read_scan(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code
    assert str(path.parent) not in caught.value.detail
    assert peak < 8 << 20


def test_a_truncated_file_says_how_much_is_missing(tmp_path):
    with pytest.raises(CorruptFile, match="announces 472 bytes, but it ends after 470"):
        read_scan(saved(tmp_path, NII[:470]))


def test_a_picture_is_called_by_its_name(tmp_path):
    with pytest.raises(UnsupportedFormat, match="a JPEG picture"):
        probe_scan(saved(tmp_path, b"\xff\xd8\xff" + bytes(500)))
    with pytest.raises(CorruptFile, match="its directory cannot be read"):
        probe_scan(saved(tmp_path, b"PK\x03\x04" + bytes(500)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted_and_refused(tmp_path, bad):
    stored = HOUNSFIELD.astype(np.float32)
    stored[0, 0, :] = bad
    with pytest.raises(InvalidVoxels, match="3 of 60 voxels are NaN or infinite"):
        read_scan(saved(tmp_path, packed(image(stored))))


def test_values_far_above_hounsfield_units_are_refused(tmp_path):
    wrapped = HOUNSFIELD.astype(np.int32).astype(np.uint32)  # -1000 became 4294966296
    with pytest.raises(InvalidVoxels, match="not HU"):
        read_scan(saved(tmp_path, packed(image(wrapped))))


def test_scaling_that_overflows_is_refused(tmp_path):
    nii = bytearray(packed(image(np.full(SHAPE, 1e200), version=2)))
    struct.pack_into("<2d", nii, 176, 1e200, 0.0)
    with pytest.raises(InvalidVoxels, match="infinite"):
        read_scan(saved(tmp_path, bytes(nii)))


def test_limits_are_the_callers(tmp_path):
    path = saved(tmp_path, NII)
    assert read_scan(path, Limits(max_voxels=60)).volume.geometry.shape == SHAPE
    with pytest.raises(TooLarge, match="60 voxels"):
        probe_scan(path, Limits(max_voxels=59))
    with pytest.raises(TooLarge, match="472 bytes"):
        probe_scan(path, Limits(max_bytes=471))


# --- bombs ------------------------------------------------------------------------------------------------------------


def zeros(gigabytes: int) -> bytes:
    """A gzip of so many GB of zeros, as a chain of members."""
    return gzip.compress(bytes(1 << 26), 9, mtime=0) * (16 * gigabytes)


def starved(path: Path, megabytes: int = 400) -> str:
    """Read a scan in a process that may not allocate more than that, nor compute for more than 20 s."""
    code = (
        "import resource, sys, numpy, nibabel\n"
        "from pathlib import Path\n"
        "from app.errors import InputError\n"
        "from app.imaging.scan import read_scan\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + ({megabytes} << 20),) * 2)\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n"
        "try:\n    read_scan(Path(sys.argv[1])); print('read')\n"
        "except InputError as error:\n    print(error.code)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


def test_a_gzip_that_unpacks_to_10_gb_is_refused_within_bounds(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(NII) + zeros(10))
    assert starved(path) == "corrupt_file"


def test_a_gzip_of_a_header_and_10_gb_of_zeros_is_refused_within_bounds(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(zeros(10))
    assert starved(path) == "unsupported_format"


def test_a_small_file_cannot_make_the_service_allocate_what_its_header_promises(tmp_path):
    promising = altered(NII, dim=(3, 512, 512, 1000, 1, 1, 1, 1))
    path = saved(tmp_path, promising, gz=True)
    assert starved(path) == "corrupt_file"


# --- fuzz -------------------------------------------------------------------------------------------------------------

SMALL = Limits(max_voxels=100_000, max_bytes=1_000_000)
FUZZED = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def read_or_refuse(path: Path) -> None:
    """A Scan or an InputError; anything else, a warning too, fails the test."""
    tracemalloc.start()
    with contextlib.suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(read_scan(path, SMALL), Scan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20


@FUZZED
@given(
    version=st.sampled_from([1, 2]),
    byte_order=st.sampled_from(["<", ">"]),
    changes=st.lists(st.tuples(st.integers(0, 539), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_whatever_a_header_says_it_is_read_or_refused(tmp_path, version, byte_order, changes):
    nii = bytearray(packed(image(HOUNSFIELD, oblique(), version=version, byte_order=byte_order)))
    for position, value in changes:
        nii[position % (540 if version == 2 else 348)] = value
    read_or_refuse(saved(tmp_path, bytes(nii)))


@FUZZED
@given(
    field=st.sampled_from(
        ["pixdim", "srow_x", "srow_z", "quatern_b", "quatern_d", "qoffset_x", "vox_offset", "scl_slope", "scl_inter"]
    ),
    value=st.floats(width=64),
    sform_code=st.integers(0, 1),
    qform_code=st.integers(0, 1),
)
def test_whatever_number_a_header_field_holds_it_is_read_or_refused(tmp_path, field, value, sform_code, qform_code):
    nii = packed(image(HOUNSFIELD, oblique(), version=2))
    header = np.frombuffer(nii[:540], nib.nifti2.header_dtype).copy()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header[field] = np.float64(value).astype(header.dtype[field].base)
    header["sform_code"], header["qform_code"] = sform_code, qform_code
    read_or_refuse(saved(tmp_path, header.tobytes() + nii[540:]))


@FUZZED
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_however_a_gzip_is_damaged_it_is_read_or_refused(tmp_path, changes):
    content = bytearray(gzip.compress(NII, mtime=0))
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path / "scan"
    path.write_bytes(content)
    read_or_refuse(path)


# --- references -------------------------------------------------------------------------------------------------------

GRID = Geometry(SHAPE, straight().astype(np.float32))
LABELS = (np.arange(60) % 3).reshape(SHAPE)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_a_reference_of_any_datatype_is_read_exactly(tmp_path, dtype):
    path = saved(tmp_path, packed(image(LABELS.astype(dtype))), gz=True)
    assert np.array_equal(read_labels(path, GRID).labels, LABELS)


@pytest.mark.parametrize(
    ("stored", "found"), [(LABELS + 1, "3"), (LABELS / 2, "0.5"), (LABELS * np.nan, "nan"), (LABELS - 1, "-1")]
)
def test_a_reference_with_other_values_is_refused_with_one_of_them(tmp_path, stored, found):
    path = saved(tmp_path, packed(image(stored.astype(np.float32))))
    with pytest.raises(InvalidReference, match=f"also holds {found}"):
        read_labels(path, GRID)


def test_a_reference_on_another_grid_is_refused_with_what_differs(tmp_path):
    path = saved(tmp_path, packed(image(LABELS.astype(np.uint8))))
    with pytest.raises(InvalidReference, match=r"\(5, 4, 3\) voxels, the scan \(5, 4, 2\)"):
        read_labels(path, Geometry((5, 4, 2), straight()))
    with pytest.raises(InvalidReference, match="lie up to 1 mm apart"):
        read_labels(path, Geometry(SHAPE, straight(origin=(-20.0, 16.0, -300.0))))
    with pytest.raises(InvalidReference, match=r"Scan \(LPS\) and reference \(RAS\)"):
        read_labels(path, GRID.reoriented("LPS"))


@pytest.mark.parametrize("content", [b"", NII[:-1], b"\xff\xd8\xff" + bytes(400)])
def test_a_reference_that_is_no_nifti_is_an_invalid_reference(tmp_path, content):
    with pytest.raises(InvalidReference, match="The reference cannot be read"):
        read_labels(saved(tmp_path, content), Geometry(SHAPE, straight()))


@pytest.mark.parametrize(
    ("shape", "edge_mm"), [((96, 96, 24), 49.0), ((1, 1, 5000), 0.1)], ids=["wider than any scanner", "too many slices"]
)
def test_a_grid_larger_than_any_scan_is_refused_before_it_costs_anything(tmp_path, shape, edge_mm):
    image = nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([edge_mm, edge_mm, edge_mm, 1]))
    image.to_filename(tmp_path / "huge.nii.gz")
    with pytest.raises(InvalidGeometry, match="at most"):
        probe_scan(tmp_path / "huge.nii.gz")
