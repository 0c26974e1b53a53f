"""What is written, read by other people's readers: dcmqi (ITK and dcmtk) and plastimatch. They must find the same."""

import json
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from app.dicom.readback import voxels_on
from app.dicom.results import DicomForm
from app.dicom.seg import encoded
from app.imaging.scan import Scan, read_scan
from app.imaging.volume import Geometry, Segmentation
from tests.dicom_case import Case, lesion_masks, torn_labels, written
from tests.dicom_files import enhanced_of, named, series_in, series_of, shared_data, small_volume, tool, zipped
from tests.nifti_files import oblique

pytestmark = pytest.mark.pacs

#: As SNOMED has them.
VOLUME, LONG, SHORT = "118565006", "103339001", "103340004"
FORMS = ["single", "multi-frame", "coronal", "oblique"]
REAL = ["dicom/lits0", "dicom/dcmqi/ct-3slice"]


def series(form: str) -> dict[str, bytes]:
    volume = small_volume(np.diag([1.0, -1.0, 1.0, 1.0]) @ oblique() if form == "oblique" else None)
    if form == "coronal":
        volume = volume.reoriented("LSP")
    return named([enhanced_of(volume)] if form == "multi-frame" else series_of(volume), folder="ct")


def ran(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def on_grid(path: Path, geometry: Geometry) -> np.ndarray:
    """The values of a NIfTI file, put by their place in millimetres onto the grid of the scan."""
    image = nib.load(path)
    values = np.asarray(image.dataobj)
    index = np.argwhere(values > 0)
    points_mm = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    placed = np.zeros(geometry.shape, values.dtype)
    placed[tuple(voxels_on(geometry, points_mm).T)] = values[tuple(index.T)]
    return placed


def by_dcmqi(folder: Path) -> dict[int, Path]:
    """A file for each segment of seg.dcm."""
    into = folder / "dcmqi"
    into.mkdir()
    ran(tool("segimage2itkimage"), "--inputDICOM", folder / "seg.dcm", "--outputDirectory", into, "--outputType", "nii")
    return {int(path.name.split(".")[0].rpartition("-")[2] or 0): path for path in into.glob("*.nii.gz")}


def assert_dcmqi_finds(folder: Path, segmentation: Segmentation) -> None:
    found, masks = by_dcmqi(folder), lesion_masks(segmentation)
    assert set(found) == {lesion + 1 for lesion in masks}
    for lesion, mask in masks.items():
        assert np.array_equal(on_grid(found[lesion + 1], segmentation.geometry) > 0, mask)


def assert_plastimatch_finds(folder: Path, files: dict[str, bytes], segmentation: Segmentation) -> None:
    (folder / "ct").mkdir()
    for name, content in files.items():
        (folder / "ct" / Path(name).name).write_bytes(content)
    into = folder / "plastimatch"
    ran(
        *(tool("plastimatch"), "convert", "--input", folder / "rtstruct.dcm", "--referenced-ct", folder / "ct"),
        *("--output-prefix", into, "--prefix-format", "nii.gz"),
    )
    for lesion, mask in lesion_masks(segmentation).items():
        name = f"Lesion {lesion}" if lesion else "Liver"
        assert np.array_equal(on_grid(into / f"{name}.nii.gz", segmentation.geometry) > 0, mask)


def scan_of(files: dict[str, bytes], folder: Path) -> Scan:
    return read_scan(zipped(folder, files))


@pytest.mark.parametrize("form", FORMS)
def test_dcmqi_finds_the_same_voxels_in_the_segmentation(form, tmp_path: Path):
    segmentation, _ = written(tmp_path, scan_of(series(form), tmp_path))
    assert_dcmqi_finds(tmp_path, segmentation)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_dcmqi_finds_the_same_voxels_on_real_series(name, tmp_path: Path):
    segmentation, _ = written(tmp_path, scan_of(series_in(shared_data(name)), tmp_path))
    assert_dcmqi_finds(tmp_path, segmentation)


def test_dcmqi_finds_the_same_voxels_in_a_label_map(tmp_path: Path):
    segmentation, _ = written(tmp_path, scan_of(series("single"), tmp_path), DicomForm("LABELMAP"))
    (path,) = by_dcmqi(tmp_path).values()
    masks = lesion_masks(segmentation)
    numbers = masks[0].astype(int)
    for lesion in set(masks) - {0}:
        numbers[masks[lesion]] = lesion + 1
    assert np.array_equal(on_grid(path, segmentation.geometry), numbers)


def test_dcmqi_finds_the_same_numbers_in_the_structured_report(tmp_path: Path):
    _, report = written(tmp_path, scan_of(series("single"), tmp_path))
    path = tmp_path / "sr.json"
    ran(tool("tid1500reader"), "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", path)
    groups = {group["TrackingIdentifier"]: group for group in json.loads(path.read_text())["Measurements"]}
    said = {
        name: {item["quantity"]["CodeValue"]: float(item["value"]) for item in group["measurementItems"]}
        for name, group in groups.items()
    }
    assert set(said) == {"Liver", *(f"Lesion {lesion.id}" for lesion in report.lesions)}
    assert said["Liver"][VOLUME] == pytest.approx(report.liver.volume_ml, rel=1e-9)
    for lesion in report.lesions:
        numbers = said[f"Lesion {lesion.id}"]
        assert numbers[VOLUME] == pytest.approx(lesion.volume_ml, rel=1e-9)
        assert numbers[LONG] == pytest.approx(lesion.longest_axial_diameter_mm, rel=1e-9)
        assert numbers[SHORT] == pytest.approx(lesion.perpendicular_diameter_mm, rel=1e-9)
    assert [group["ReferencedSegment"] for group in groups.values()] == list(range(1, len(groups) + 1))


# plastimatch stacks contours along the axis of the patient's body and reads no multi-frame CT.
def test_plastimatch_finds_the_same_voxels_in_the_structure_set_holes_and_all(tmp_path: Path):
    files = series("single")
    case = Case(tmp_path, small_volume(), turned=Segmentation(torn_labels(), small_volume().geometry))
    seg = case.seg()
    (tmp_path / "rtstruct.dcm").write_bytes(encoded(case.structures(seg)))
    assert_plastimatch_finds(tmp_path, files, case.segmentation)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_plastimatch_finds_the_same_voxels_on_real_series(name, tmp_path: Path):
    files = series_in(shared_data(name))
    segmentation, _ = written(tmp_path, scan_of(files, tmp_path))
    assert_plastimatch_finds(tmp_path, files, segmentation)
