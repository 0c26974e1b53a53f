"""Label files lie on the very grid of the upload, hold nothing else of it, and are written whole or not at all."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from app.imaging.nifti import write_labels, write_volume
from app.imaging.scan import probe_scan, read_labels, read_scan
from app.imaging.volume import Geometry, Volume
from tests.nifti_files import altered, image, oblique, packed, saved, straight

SHAPE = (6, 5, 4)
LABELS = (np.arange(120) % 3).astype(np.uint8).reshape(SHAPE)
HOUNSFIELD = np.arange(120, dtype=np.int16).reshape(SHAPE) - 60
GRID_FIELDS = ["qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
               "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"]  # fmt: skip


def written(tmp_path, upload=None, labels=LABELS):
    """The labels as written for an upload, as NiBabel reads them."""
    geometry = Geometry(SHAPE, straight()) if upload is None else read_scan(upload).volume.geometry
    path = tmp_path / "labels.nii.gz"
    write_labels(path, labels, geometry, header_of=upload)
    return nib.load(path)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_the_grid_of_the_upload_comes_back_number_by_number(tmp_path, version, byte_order):
    picture = image(HOUNSFIELD, oblique(), version=version, byte_order=byte_order)
    picture.set_qform(oblique(origin=(1.0, 2.0, 3.0)), 2)  # a conflict survives, too
    picture.set_sform(oblique(), 4)
    picture.header.set_xyzt_units("mm", "sec")
    upload = saved(tmp_path, packed(picture))

    labels = written(tmp_path, upload)

    assert type(labels) is type(picture)
    for name in GRID_FIELDS:
        sent, came_back = nib.load(upload).header[name], labels.header[name]
        assert sent.astype(came_back.dtype).tobytes() == came_back.tobytes(), name
    assert np.array_equal(labels.header["pixdim"][:4], picture.header["pixdim"][:4])
    assert np.array_equal(labels.affine, nib.load(upload).affine)
    assert np.array_equal(labels.get_fdata(), LABELS)


@pytest.mark.parametrize("coded", [{"sform_code": 0}, {"qform_code": 0}, {"sform_code": 0, "qform_code": 0}])
def test_labels_lie_where_the_upload_lies_whichever_form_it_uses(tmp_path, coded):
    upload = saved(tmp_path, altered(packed(image(HOUNSFIELD, oblique())), **coded))
    assert np.array_equal(written(tmp_path, upload).affine, nib.load(upload).affine)
    assert read_labels(tmp_path / "labels.nii.gz", read_scan(upload).volume.geometry).labels.tolist() == LABELS.tolist()


def test_nothing_but_the_grid_of_the_upload_is_copied(tmp_path):
    picture = image(HOUNSFIELD)
    picture.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    sent = altered(packed(picture), descrip=b"DOE^JOHN", db_name=b"DOE^JOHN", aux_file=b"DOE^JOHN", intent_name=b"DOE")
    labels = written(tmp_path, saved(tmp_path, sent))
    assert b"DOE" in sent
    assert b"DOE" not in gzip.decompress((tmp_path / "labels.nii.gz").read_bytes())
    assert not labels.header.extensions


def test_labels_say_that_they_are_labels_without_scaling(tmp_path):
    header = written(tmp_path, saved(tmp_path, altered(packed(image(HOUNSFIELD)), scl_slope=3, scl_inter=9))).header
    assert header.get_intent()[0] == "label"
    assert (header["cal_min"], header["cal_max"]) == (0, 2)
    stored = gzip.decompress((tmp_path / "labels.nii.gz").read_bytes())  # NiBabel blanks the scaling as it reads
    assert struct.unpack_from("<2f", stored, 112) == (1, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_either_type_and_memory_order_is_written_right(tmp_path, dtype, order):
    labels = np.array(LABELS * 100, dtype=dtype, order=order)
    picture = written(tmp_path, labels=labels)
    assert picture.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(picture.dataobj), labels)


def test_without_an_upload_sform_and_qform_are_the_affine(tmp_path):
    write_labels(tmp_path / "labels.nii.gz", LABELS, Geometry(SHAPE, oblique()))
    header = nib.load(tmp_path / "labels.nii.gz").header
    np.testing.assert_allclose(header.get_sform(), oblique(), atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), oblique(), atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"


def test_a_volume_written_and_read_is_the_same(tmp_path):
    volume = Volume(HOUNSFIELD, Geometry(SHAPE, oblique().astype(np.float32)))
    write_volume(tmp_path / "ct.nii.gz", volume)
    again = read_scan(tmp_path / "ct.nii.gz")
    assert np.array_equal(again.volume.voxels, HOUNSFIELD)
    assert again.volume.geometry == volume.geometry
    assert again.notes == ()
    assert np.array_equal(nib.load(tmp_path / "ct.nii.gz").get_fdata(), HOUNSFIELD)


@pytest.mark.parametrize("degrees", np.linspace(179.9, 180.1, 21))
def test_a_grid_turned_by_almost_half_a_circle_is_written_without_a_qform_that_contradicts_it(tmp_path, degrees):
    # a quaternion leaves out its first number, which then is the root of what rounding left of 1
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.1, 0.7, 0.7071])).as_matrix() * 0.7
    voxels = np.zeros((300, 300, 4), np.int16)
    write_volume(tmp_path / "ct.nii.gz", Volume(voxels, Geometry(voxels.shape, turn)))
    again = read_scan(tmp_path / "ct.nii.gz")
    assert again.notes == ()
    np.testing.assert_allclose(again.volume.geometry.affine, turn, atol=1e-6)


def tilted(degrees: float) -> np.ndarray:
    """Slices in LPS that lean back: half a turn about an axis that is no axis of the patient, which is common."""
    affine = np.eye(4)
    lean = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    affine[:3, :3] = np.diag([-1, -1, 1]) @ lean * [0.75, 0.75, 1.5]
    affine[:3, 3] = -180, 150, -400
    return affine


@pytest.mark.parametrize("degrees", np.linspace(0.5, 30, 60))
def test_of_slices_that_lean_the_qform_is_read_as_it_was_meant(tmp_path, degrees):
    # rounding leaves a ten-millionth of 1 for the square of the number that is left out: 0.3 mm at the far corner
    header = nib.Nifti1Header()
    header.set_data_shape((512, 512, 200))
    header.set_data_dtype(np.int16)
    header.set_qform(tilted(degrees), 1)
    alone = probe(tmp_path, header)
    header.set_sform(tilted(degrees), 1)
    both = probe(tmp_path, header)
    assert (alone.notes, both.notes) == ((), ())
    assert alone.geometry.apart_mm(Geometry(alone.shape, tilted(degrees))) < 0.002


def probe(tmp_path, header):
    """What is read of a file with that header, whose voxels are a hole."""
    header["magic"], header["vox_offset"] = b"n+1", 352
    with (tmp_path / "ct.nii").open("wb") as file:
        file.write(header.binaryblock)
        file.truncate(352 + 2 * int(np.prod(header.get_data_shape())))
    return probe_scan(tmp_path / "ct.nii")


@pytest.mark.parametrize("degrees", np.linspace(0.5, 30, 60))
def test_a_qform_is_written_only_where_every_program_reads_the_same(tmp_path, degrees):
    labels = np.zeros((512, 512, 2), np.uint8)
    write_labels(tmp_path / "labels.nii.gz", labels, Geometry(labels.shape, tilted(degrees)))
    header = nib.load(tmp_path / "labels.nii.gz").header
    if header["qform_code"]:
        b, c, d = (float(header[f"quatern_{axis}"]) for axis in "bcd")
        a = max(0.0, 1 - b * b - c * c - d * d) ** 0.5
        turn = Rotation.from_quat([b, c, d, a]).as_matrix()
        np.testing.assert_allclose(turn * [0.75, 0.75, 1.5], tilted(degrees)[:3, :3], atol=1e-5)


def test_an_axis_too_long_for_nifti_1_is_written_as_nifti_2(tmp_path):
    labels = np.zeros((2, 2, 40_000), np.uint8)
    write_labels(tmp_path / "long.nii.gz", labels, Geometry(labels.shape, np.diag([1, 1, 0.1, 1])))
    written = nib.load(tmp_path / "long.nii.gz")
    assert isinstance(written, nib.Nifti2Image)
    assert written.shape == labels.shape


def test_the_same_labels_give_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, LABELS, Geometry(SHAPE, straight()))
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[3:8] == bytes(5)  # neither a file name nor a time in the gzip header


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "labels.nii.gz"
    write_labels(path, LABELS, Geometry(SHAPE, straight()))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_labels(path, LABELS * 0, Geometry(SHAPE, straight()))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.nii.gz"]


def test_labels_that_do_not_belong_to_the_upload_are_a_bug(tmp_path):
    upload = saved(tmp_path, packed(image(HOUNSFIELD)))
    with pytest.raises(ValueError, match="do not belong"):
        write_labels(tmp_path / "o.nii.gz", LABELS, Geometry(SHAPE, oblique()), header_of=upload)
    with pytest.raises(ValueError, match="expected uint8"):
        write_labels(tmp_path / "o.nii.gz", LABELS[1:], Geometry(SHAPE, straight()))
    with pytest.raises(ValueError, match="expected uint8"):
        write_labels(tmp_path / "o.nii.gz", LABELS.astype(float), Geometry(SHAPE, straight()))
