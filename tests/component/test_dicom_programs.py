"""Against other people's programs and files: dcm2niix, dciodvfy, dcmtk, and a segmentation that dcmqi wrote."""

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from app.dicom.readback import SegmentationFile, measured_groups, voxels_on
from app.dicom.results import DICOM_FILES, STRUCTURES
from app.imaging.scan import read_scan
from tests.dicom_case import written
from tests.dicom_files import (
    MARKS,
    change,
    enhanced_of,
    packed,
    program,
    series_in,
    series_of,
    shared_data,
    signed,
    small_volume,
    zipped,
)

RESULTS = (*DICOM_FILES, STRUCTURES)
COMPRESSORS = {
    "JPEG lossless": ["dcmcjpeg", "+el"],
    "JPEG lossless, first order": ["dcmcjpeg", "+e1"],
    "JPEG-LS": ["dcmcjpls", "+el"],
    "RLE": ["dcmcrle"],
    "implicit": ["dcmconv", "+ti"],
    "big endian": ["dcmconv", "+tb"],
}


def dcm2niix(folder: Path, into: Path) -> nib.Nifti1Image:
    subprocess.run(
        [program("dcm2niix"), "-z", "n", "-b", "n", "-f", "ct", "-o", str(into), str(folder)],
        check=True,
        capture_output=True,
    )
    return nib.load(next(into.glob("ct*.nii")))


@pytest.mark.pacs
@pytest.mark.data
@pytest.mark.parametrize("name", ["dicom/lits0", "dicom/totalsegmentator"])
def test_real_series_are_read_as_dcm2niix_reads_them_voxel_for_voxel_and_in_world_coordinates(name, tmp_path):
    folder = shared_data(name)
    theirs = dcm2niix(folder, tmp_path)
    ours = read_scan(zipped(tmp_path, series_in(folder))).volume.reoriented("".join(nib.aff2axcodes(theirs.affine)))
    assert np.array_equal(ours.voxels, np.asarray(theirs.dataobj))
    assert np.allclose(ours.geometry.affine, theirs.affine, atol=2e-3)


@pytest.mark.pacs
@pytest.mark.parametrize("codes", ["LPS", "LAI", "LSP", "PSR"])
def test_series_of_every_plane_are_read_as_dcm2niix_reads_them(codes, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    files = {f"{k}.dcm": packed(each) for k, each in enumerate(series_of(small_volume().reoriented(codes)))}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    theirs = dcm2niix(folder, out)
    ours = read_scan(zipped(tmp_path, files)).volume.reoriented("".join(nib.aff2axcodes(theirs.affine)))
    assert np.array_equal(ours.voxels, np.asarray(theirs.dataobj))
    assert np.allclose(ours.geometry.affine, theirs.affine, atol=2e-3)


@pytest.mark.pacs
@pytest.mark.parametrize("form", COMPRESSORS)
@pytest.mark.parametrize("is_signed", [False, True])
def test_what_dcmtk_compresses_is_read_to_the_last_bit(form, is_signed, tmp_path):
    volume, files = small_volume(), {}
    for k, dataset in enumerate(series_of(volume)):
        source, target = tmp_path / "in.dcm", tmp_path / "out.dcm"
        source.write_bytes(packed(signed(dataset, volume.voxels[:, :, k].T) if is_signed else dataset))
        command, *options = COMPRESSORS[form]
        subprocess.run([program(command), *options, str(source), str(target)], check=True, capture_output=True)
        files[f"{k}"] = target.read_bytes()
    assert np.array_equal(read_scan(zipped(tmp_path, files)).volume.voxels, volume.voxels)


@pytest.mark.pacs
@pytest.mark.parametrize("form", ["single", "multi-frame", "nameless", "coronal"])
def test_dciodvfy_finds_no_error_in_what_is_written(form, tmp_path):
    volume = small_volume().reoriented("LSP" if form == "coronal" else "LPS")
    files = [enhanced_of(volume)] if form == "multi-frame" else series_of(volume)
    if form == "nameless":
        files = [change(each, dict.fromkeys(MARKS, "") | {"StudyTime": None}) for each in files]
    written(tmp_path, read_scan(zipped(tmp_path, files)))
    for name in RESULTS:
        ran = subprocess.run([program("dciodvfy"), str(tmp_path / name)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "Error" not in ran.stderr


@pytest.mark.pacs
@pytest.mark.data
@pytest.mark.parametrize("name", ["dicom/lits0", "dicom/totalsegmentator", "dicom/dcmqi/ct-3slice"])
def test_dciodvfy_finds_no_error_in_results_on_real_series(name, tmp_path):
    written(tmp_path, read_scan(zipped(tmp_path, series_in(shared_data(name)))))
    for result in RESULTS:
        ran = subprocess.run([program("dciodvfy"), str(tmp_path / result)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


@pytest.mark.data
def test_a_segmentation_by_dcmqi_lies_on_the_grid_of_its_ct(tmp_path):
    folder = shared_data("dicom/dcmqi")
    scan = read_scan(zipped(tmp_path, series_in(folder / "ct-3slice")))
    theirs = SegmentationFile((folder / "liver-seg.dcm").read_bytes())
    sources = {image.sop_instance_uid for image in scan.dicom.images}
    assert theirs.source_uids() <= sources
    mask = np.zeros(scan.volume.geometry.shape, bool)
    for plane in theirs.planes():
        mask[tuple(voxels_on(scan.volume.geometry, plane.points_mm()).T)] = True
    assert theirs.voxel_ml == pytest.approx(scan.volume.geometry.voxel_volume_ml, rel=1e-3)
    assert mask.sum() > 10_000
    liver = scan.volume.voxels[mask]
    assert 20 < np.median(liver) < 160  # it lies on soft tissue, not beside it
    other = np.zeros(mask.shape, bool)
    dataset = dcmread(folder / "liver-seg.dcm")  # a slow, obvious reading: each frame by the position that it states
    heights = [float(image.position_mm[2]) for image in scan.dicom.images]
    for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, np.atleast_3d(dataset.pixel_array), strict=True):
        k = int(np.argmin(np.abs(np.array(heights) - float(frame.PlanePositionSequence[0].ImagePositionPatient[2]))))
        other[:, :, k] |= pixels.T > 0
    assert np.array_equal(mask, other)


@pytest.mark.data
def test_a_structured_report_by_dcmqi_is_read(tmp_path):
    groups = measured_groups((shared_data("dicom/dcmqi") / "tid1500-sr.dcm").read_bytes())
    assert groups
    assert all(group.values and group.segment >= 1 for group in groups)
