"""Every layout becomes cases, and no patient lies on two sides of a split."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch")

from tests.dicom_files import series_of, small_volume, zipped
from training.crossvalidation import kept_out_side, sides, training_side
from training.datasets import Case, discover
from training.packs import Entry, Pack, liver_region, on_pack_grid, read_packs, slice_distance_mm, write_pack
from training.split import DataError, folds, is_kept_out, kept_out_groups, patient_group

pytestmark = pytest.mark.training


def write_pair(scan, labels, codes="LPS"):
    """A lopsided volume: bright liver on the patient's right, towards anterior."""
    hounsfield = np.full((40, 32, 6), -1000, np.int16)
    truth = np.zeros(hounsfield.shape, np.uint8)
    hounsfield[5:35, 5:28], hounsfield[8:18, 8:16] = 0, 100
    truth[8:18, 8:16] = 1
    truth[10:13, 10:13, 3] = 2
    start = nib.orientations.axcodes2ornt(("L", "P", "S"))
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(tuple(codes)))
    affine = np.diag([-2.0, -2.0, 5.0, 1.0]) @ nib.orientations.inv_ornt_aff(turn, hounsfield.shape)
    for path, array in ((scan, hounsfield), (labels, truth)):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(nib.orientations.apply_orientation(array, turn), affine), path)
    return hounsfield.T, truth.T


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR"])
@pytest.mark.parametrize(
    ("scan", "labels", "patient"),
    [
        ("volume-4.nii.gz", "segmentation-4.nii.gz", "LiTS004"),
        ("volume-1.nii", "segmentation-1.nii", "LiTS000"),
        ("Task03/imagesTr/liver_7.nii.gz", "Task03/labelsTr/liver_7.nii.gz", "LiTS007"),
        ("own/images/p12_a.nii.gz", "own/labels/p12_a.nii.gz", "p12"),
    ],
)
def test_every_layout_gives_upright_slices(tmp_path, scan, labels, patient, codes):
    hounsfield, truth = write_pair(tmp_path / scan, tmp_path / labels, codes)
    (case,) = discover(tmp_path)
    assert case.patient == patient
    assert np.array_equal(case.hounsfield_kji, hounsfield)
    assert np.array_equal(case.labels_kji, truth)
    assert np.allclose(case.spacing_kji_mm, (5, 2, 2))


def test_an_archive_gives_a_case_per_volume(tmp_path):
    liver = np.zeros((3, 16, 16), np.uint8)
    liver[:2, 4:8, 4:8] = 1
    np.savez(
        tmp_path / "some.npz", hounsfield=np.zeros((3, 16, 16), np.int16), liver=liver,
        patient=np.array(["LiTS010", "LiTS010", "x"]), volume=np.array(["LiTS010", "LiTS010", "x"]),
    )  # fmt: skip
    cases = {case.patient: case for case in discover(tmp_path)}
    assert (len(cases["LiTS010"].labels_kji), cases["LiTS010"].source) == (2, "spread")
    assert not cases["LiTS010"].lesions_labelled
    assert (cases["x"].source, cases["x"].lesions_labelled) == ("negative", True)


def test_lits_works_as_it_is_unpacked(tmp_path):
    """Two batches in deep folders with blanks in their names; on Kaggle the labels have a folder of their own."""
    first, second = tmp_path / "media/nas/CT/LITS/Training Batch 1", tmp_path / "media/nas/CT/LITS/Training Batch 2"
    write_pair(first / "volume-10.nii", first / "segmentation-10.nii")
    write_pair(second / "volume-9.nii", second / "segmentation-9.nii")
    write_pair(tmp_path / "volume_pt1" / "volume-100.nii", tmp_path / "segmentations" / "segmentation-100.nii")
    assert [case.name for case in discover(tmp_path)] == ["volume-9", "volume-10", "volume-100"]


def test_what_macos_puts_into_the_tar_of_the_decathlon_is_no_scan(tmp_path):
    write_pair(tmp_path / "imagesTr/liver_7.nii.gz", tmp_path / "labelsTr/liver_7.nii.gz")
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "._liver_7.nii.gz").write_bytes(b"Mac OS X")
    (tmp_path / "imagesTs/liver_200.nii.gz").write_bytes(b"a test scan, without labels")
    assert [case.name for case in discover(tmp_path)] == ["liver_7"]


def test_a_zipped_dicom_series_is_a_scan_of_ones_own(tmp_path):
    volume = small_volume()
    truth = np.zeros(volume.geometry.shape, np.uint8)
    truth[1:4, 2:4, 1] = 1
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    zipped(tmp_path, series_of(volume)).rename(tmp_path / "images/p1.zip")
    nib.save(nib.Nifti1Image(truth, volume.geometry.affine), tmp_path / "labels/p1.nii.gz")
    (case,) = discover(tmp_path)
    assert np.array_equal(case.hounsfield_kji, volume.reoriented("LPS").voxels.T)
    assert sorted(case.hounsfield_kji[case.labels_kji == 1]) == sorted(volume.voxels[truth == 1])


@pytest.mark.parametrize(
    ("present", "without"),
    [
        (("volume-1.nii", "segmentation-1.nii"), "volume-2.nii"),
        (("volume-1.nii", "segmentation-1.nii"), "segmentation-2.nii.gz"),
        (("imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz"), "imagesTr/liver_2.nii.gz"),
        (("images/a.nii.gz", "labels/a.nii.gz"), "images/b.nii.gz"),
        (("images/a.nii.gz", "labels/a.nii.gz"), "labels/b.nii.gz"),
    ],
)
def test_a_scan_without_labels_is_named_before_anything_is_read(tmp_path, present, without):
    for name in (*present, without):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not read")
    with pytest.raises(DataError, match=f"1 files have no counterpart.*{without}"):
        next(discover(tmp_path))


def test_the_same_scan_twice_is_refused(tmp_path):
    for name in ("volume-1.nii", "segmentation-1.nii", "more/volume-1.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not read")
    with pytest.raises(DataError, match="the same scan twice"):
        next(discover(tmp_path))


def changed(path, **how):
    """Write a file again with another grid or other values."""
    image = nib.load(path)
    values = np.asarray(image.dataobj)
    affine = image.affine + how.get("affine", 0)
    values = how["values"](values) if "values" in how else values
    nib.save(nib.Nifti1Image(values, affine), path)


@pytest.mark.parametrize(
    ("how", "what_is_said"),
    [
        ({"values": lambda labels: labels[:, :, :5]}, r"reference has \(40, 32, 5\) voxels, the scan \(40, 32, 6\)"),
        ({"affine": [[0, 0, 0, 3.0], [0] * 4, [0] * 4, [0] * 4]}, "lie up to 3 mm apart"),
        ({"values": lambda labels: labels * 3}, "0 .background., 1 .liver. and 2 .lesion. only; it also holds 3"),
        ({"values": lambda labels: (labels * 0.5).astype(np.float32)}, "also holds 0.5"),
    ],
)
def test_labels_that_do_not_fit_their_scan_are_refused_with_the_reason(tmp_path, how, what_is_said):
    write_pair(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
    changed(tmp_path / "labels/a.nii.gz", **how)
    with pytest.raises(DataError, match=f"images/a.nii.gz with .*labels/a.nii.gz: .*{what_is_said}"):
        next(discover(tmp_path))


def test_a_scan_that_is_cut_off_is_named(tmp_path):
    write_pair(tmp_path / "volume-1.nii", tmp_path / "segmentation-1.nii")
    content = (tmp_path / "volume-1.nii").read_bytes()
    (tmp_path / "volume-1.nii").write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"volume-1\.nii with "):
        next(discover(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "what_is_said"),
    [
        ({"patient": None}, "no patient here"),
        ({"liver": np.zeros((3, 16, 15), np.uint8)}, r"hounsfield \(3, 16, 16\) and liver \(3, 16, 15\)"),
        ({"liver": np.full((3, 16, 16), 7, np.uint8)}, r"0 and 1 only, it holds \[7\]"),
        ({"volume": np.array(["a"])}, "every one of the 3 slices needs its patient and its volume"),
    ],
)
def test_an_archive_that_is_none_is_refused_with_the_reason(tmp_path, wrong, what_is_said):
    content = {
        "hounsfield": np.zeros((3, 16, 16), np.int16), "liver": np.zeros((3, 16, 16), np.uint8),
        "patient": np.array(["a"] * 3), "volume": np.array(["a"] * 3),
    } | wrong  # fmt: skip
    np.savez(tmp_path / "some.npz", **{key: value for key, value in content.items() if value is not None})
    with pytest.raises(DataError, match=f"some.npz.*{what_is_said}"):
        next(discover(tmp_path))


def test_a_folder_without_scans_is_said_to_be_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no LiTS"):
        list(discover(tmp_path))


def entries(patients):
    return tuple(Entry(name, name, source, True, (1.0, 1.0)) for name, source in patients)


def test_no_patient_lies_on_both_sides_whatever_an_archive_calls_it():
    known = [(f"LiTS{n:03d}", "spread") for n in range(131)]
    known += [(f"LiTSidx1{n:04d}", "spread") for n in range(131)]
    known += [(f"LiTS{n:03d}", "lits") for n in range(7)]
    pack = Pack.of(np.zeros((len(known), 1, 2, 2), np.int16), np.zeros((len(known), 2, 2), np.uint8), entries(known))
    train, kept = (
        {patient_group(entry.patient) for entry in side.entries} for side in (training_side(pack), kept_out_side(pack))
    )
    assert not train & kept
    assert {"lits-3", "lits-5"} <= kept
    assert {"lits-0", "lits-1", "lits-2", "lits-4", "lits-6"} <= train
    assert len(kept) >= 14


def test_of_a_few_scans_of_ones_own_somebody_is_kept_out_and_somebody_trained_on():
    for count in range(2, 12):
        for start in range(20):
            known = [(f"p{n}", "pairs") for n in range(start, start + count)] + [("LiTS003", "lits")]
            pack = Pack.of(
                np.zeros((len(known), 1, 2, 2), np.int16), np.zeros((len(known), 2, 2), np.uint8), entries(known)
            )
            mine = [
                {e.patient for e in side.entries} - {"LiTS003"} for side in (training_side(pack), kept_out_side(pack))
            ]
            assert all(mine)
            assert not mine[0] & mine[1]


def test_a_slice_that_may_be_of_a_held_patient_is_not_trained_on_in_that_fold():
    known = [("LiTS040", "spread"), ("LiTS041", "spread"), ("LiTSbatch2_sample_0012", "negative"), ("x", "negative")]
    pack = Pack.of(np.zeros((4, 1, 2, 2), np.int16), np.zeros((4, 2, 2), np.uint8), entries(known))
    trained, scored = sides(pack, frozenset({"lits-40"}))
    assert {entry.patient for entry in trained.entries} == {"LiTS041", "x"}
    assert {entry.patient for entry in scored.entries} == {"LiTS040"}


def test_the_split_does_not_depend_on_the_order_of_the_files():
    groups = [f"lits-{n}" for n in range(100)]
    assert kept_out_groups(groups) == kept_out_groups(reversed(groups))


def test_a_negative_slice_is_kept_out_under_either_reading_of_its_number():
    kept_out = frozenset({"lits-40"})
    assert is_kept_out("LiTSbatch2_sample_0012", "negative", kept_out)
    assert is_kept_out("LiTSbatch2_sample_0040", "negative", kept_out)
    assert not is_kept_out("LiTSbatch2_sample_0013", "negative", kept_out)
    assert not is_kept_out("LiTS012", "negative", kept_out)


def test_folds_hold_every_patient_once():
    groups = {f"lits-{n}" for n in range(23)}
    dealt = folds(groups, 5)
    assert sorted(group for fold in dealt for group in fold) == sorted(groups)
    assert {len(fold) for fold in dealt} == {4, 5}


def test_the_region_of_a_liver_holds_all_of_it(phantom_cases):
    case = phantom_cases[0]
    region = liver_region(case)
    assert region.labels_kji.astype(bool).sum() == case.labels_kji.astype(bool).sum()
    assert region.labels_kji.size < case.labels_kji.size


@pytest.mark.parametrize(("task", "planes"), [("liver", 1), ("lesion", 3)])
def test_a_pack_is_read_as_it_was_written(tmp_path, phantom_cases, task, planes):
    count = write_pack(tmp_path / task / "phantoms", phantom_cases, task)
    pack = read_packs(tmp_path, task)
    assert pack.hounsfield.shape == (count, planes, 256, 256)
    assert pack.labels.shape == (count, 256, 256)
    assert pack.labels[:].any(axis=(1, 2)).all() or task == "liver"
    assert {entry.source for entry in pack.entries} == {"phantom"}


def ramp(**changes):
    """Slices 1 mm apart whose grey value is their number, liver in all of them."""
    slices = np.broadcast_to(np.arange(120, dtype=np.int16)[:, None, None], (120, 8, 8))
    case = Case("ramp", "somebody", "pairs", slices, np.ones(slices.shape, np.uint8), (1.0, 1.0, 1.0))
    return replace(case, **changes)


def test_the_planes_of_a_lesion_pack_are_neighbours_in_the_scan():
    hounsfield, _ = on_pack_grid(ramp(), "lesion")
    assert hounsfield[60, :, 0, 0].tolist() == [60, 55, 65]


def test_slices_that_stand_alone_are_their_own_neighbours():
    hounsfield, _ = on_pack_grid(ramp(source="spread"), "lesion")
    assert hounsfield[60, :, 0, 0].tolist() == [60, 60, 60]


def test_a_liver_flatter_than_one_can_be_has_thick_slices():
    few = ramp(labels_kji=np.concatenate([np.ones((30, 8, 8), np.uint8), np.zeros((90, 8, 8), np.uint8)]))
    assert slice_distance_mm(few) == 5.0
    assert slice_distance_mm(ramp()) == 1.0
    assert slice_distance_mm(replace(few, spacing_kji_mm=(3.0, 1.0, 1.0))) == 3.0
