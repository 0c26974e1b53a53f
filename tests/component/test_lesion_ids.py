"""A lesion has one number: in JSON, NIfTI, CSV, SEG, SR and in the picture, each read back from what was written."""

import csv
import io
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

from app.dicom.readback import SegmentationFile, measured_groups, voxels_on
from app.imaging.volume import Segmentation, Volume
from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.network import Runtime
from app.pipeline import Request, run
from app.preview import COLUMNS, FONT_PX, NUMBER_COLOUR, TILE_PX, _view, _write
from app.report import Report
from app.sheet import lesions_csv
from tests.analytic_networks import phantom_models
from tests.dicom_files import series_of, zipped
from training.phantom import HOUNSFIELD, Tissue, abdomen


@pytest.fixture(scope="module")
def scan():
    """A phantom with six lesions, two of which touch by a narrow neck."""
    phantom = abdomen(2, (128, 112, 48), (2.5, 2.75, 4.0), noise_hu=0, lesions=4)
    voxels = np.array(phantom.volume.voxels, order="F")
    liver = phantom.truth.labels == 1
    grid = phantom.volume.geometry.to_mm(np.moveaxis(np.indices(voxels.shape), 0, -1))
    depth = distance_transform_edt(liver, sampling=phantom.volume.geometry.spacing_mm)
    deepest = grid[np.unravel_index(depth.argmax(), depth.shape)]
    for aside_mm in (-13, 13):
        ball = np.linalg.norm(grid - np.add(deepest, (aside_mm, 0, 0)), axis=-1) < 14
        voxels[liver & ball] = HOUNSFIELD[Tissue.LESION]
    return Volume(voxels, phantom.volume.geometry)


@pytest.fixture(scope="module", params=[False, True], ids=["connected", "split"])
def written(request, scan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    runtime = Runtime(threads=1)
    cascade = Cascade(load_networks(phantom_models(folder / "models"), runtime), runtime)
    run(replace(Request(zipped(folder, series_of(scan)), None, folder / "out"), split_lesions=request.param), cascade)
    report = Report.model_validate_json((folder / "out/report.json").read_text())
    assert report.lesions_split == request.param
    return folder / "out", report


@pytest.fixture(scope="module")
def ids(written):
    return np.asarray(nib.load(written[0] / "lesions.nii.gz").dataobj)


def centroids(mask, geometry):
    return geometry.to_mm(np.argwhere(mask).mean(axis=0))


def test_lesions_that_touch_are_one_or_two_as_was_asked(written):
    assert len(written[1].lesions) == (6 if written[1].lesions_split else 5)


def test_in_nifti(written, ids, scan):
    _, report = written
    assert sorted(np.unique(ids[ids > 0])) == [lesion.id for lesion in report.lesions]
    for lesion in report.lesions:
        mine = ids == lesion.id
        assert lesion.volume_ml == pytest.approx(mine.sum() * scan.geometry.voxel_volume_ml)
        assert lesion.centroid_mm == pytest.approx(centroids(mine, scan.geometry), abs=1e-3)


def test_in_csv(written):
    rows = {int(row["id"]): row for row in csv.DictReader(io.StringIO(lesions_csv(written[1])))}
    assert list(rows) == [lesion.id for lesion in written[1].lesions]
    for lesion in written[1].lesions:
        assert float(rows[lesion.id]["volume_ml"]) == lesion.volume_ml
        assert float(rows[lesion.id]["longest_a_right_mm"]) == lesion.longest_ends_mm[0][0]


def test_in_the_dicom_segmentation(written, ids, scan):
    out, report = written
    file = SegmentationFile((out / "seg.dcm").read_bytes())
    labels = {info.label: number for number, info in file.segments.items()}
    found = {number: np.zeros(ids.shape, bool) for number in file.segments}
    for plane in file.planes():
        found[plane.segment][tuple(voxels_on(scan.geometry, plane.points_mm()).T)] = True
    assert len(labels) == len(report.lesions) + 1
    for lesion in report.lesions:
        assert np.array_equal(found[labels[f"Lesion {lesion.id}"]], ids == lesion.id)


def test_in_the_structured_report(written):
    out, report = written
    segments = SegmentationFile((out / "seg.dcm").read_bytes()).segments
    groups = {group.tracking_uid: group for group in measured_groups((out / "sr.dcm").read_bytes())}
    by_label = {info.label: groups[info.tracking_uid] for info in segments.values()}
    for lesion in report.lesions:
        values = by_label[f"Lesion {lesion.id}"].values
        assert values["118565006", "ml"] == pytest.approx(lesion.volume_ml)
        assert values["103339001", "mm"] == pytest.approx(lesion.longest_axial_diameter_mm)


def places_of_numbers(view, ids):
    """Each lesion in each tile: its id of lesions.nii.gz, and where the picture should say it."""
    (width, height), (wide, high) = TILE_PX, view.size_px
    turned = Segmentation(ids.astype(np.uint8, order="F"), view.volume.geometry)
    step_x, step_y = (mm * view.pixels_per_mm for mm in view.spacing_mm)
    for place, k in enumerate(view.slices):
        row, column = divmod(place, COLUMNS)
        left, top = (width - wide) // 2, (height - high) // 2
        shown = turned.labels[(*view.window, k)]
        for number in np.unique(shown)[1:]:
            i, j = np.nonzero(shown == number)
            x = left + (i.max() + 1) * step_x + 3
            y = top + (j.mean() + 0.5) * step_y - FONT_PX / 2
            yield int(number), (column * width + x, row * height + y)


def read_number(picture, at, highest):
    """The number that changes the picture least when it is written there once more."""

    def change(number):
        again = picture.copy()
        _write(ImageDraw.Draw(again), at, str(number), NUMBER_COLOUR)
        return np.abs(np.asarray(again, int) - np.asarray(picture, int)).sum()

    return min(range(1, highest + 1), key=change)


def test_in_the_picture(written, ids, scan):
    out, report = written
    labels = np.asfortranarray(nib.load(out / "labels.nii.gz").dataobj).astype(np.uint8)
    view = _view(scan, Segmentation(labels, scan.geometry, split_lesions=report.lesions_split))
    with Image.open(out / "preview.png") as file:
        picture = file.convert("RGB")
    shown = list(places_of_numbers(view, ids))
    assert {1, 2, 3} <= {number for number, _ in shown}
    for number, at in shown:
        assert read_number(picture, at, len(report.lesions)) == number
