"""What is said about a scan reaches report and receipt, and never changes a mask."""

import json

import nibabel as nib
import numpy as np
import pytest

from app.errors import NoLiver
from app.imaging.nifti import write_volume
from app.imaging.volume import Segmentation, Volume
from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.network import Runtime
from app.pipeline import Request, run
from tests.analytic_networks import crf_graph, lesion_graph, liver_graph, write_models
from training.phantom import LESION_RANGE_HU, LIVER_RANGE_HU, Phantom, abdomen

#: What makes the verdict "warn", and the codes that must be among those named.
ODD = {
    "head and foot swapped": ((2,), {"upside_down"}),
    "left and right swapped": ((0,), {"liver_on_left"}),
    "front and back swapped": ((1,), {"front_back_swapped"}),
}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return abdomen(seed=3, shape=(96, 80, 40), spacing_mm=(4.0, 4.0, 5.0), noise_hu=0)


def request_of(folder, volume: Volume) -> Request:
    write_volume(folder / "ct.nii.gz", volume)
    return Request(folder / "ct.nii.gz", None, folder / "out")


def flipped(phantom: Phantom, axes) -> tuple[Volume, Segmentation]:
    voxels, labels = (
        np.asfortranarray(np.flip(array, axes)) for array in (phantom.volume.voxels, phantom.truth.labels)
    )
    return Volume(voxels, phantom.volume.geometry), Segmentation(labels, phantom.truth.geometry)


@pytest.mark.parametrize("fault", ODD)
def test_a_verdict_is_in_report_and_receipt_and_changes_no_mask(cascade, phantom, tmp_path, fault):
    axes, expected = ODD[fault]
    volume, truth = flipped(phantom, axes)
    report = run(request_of(tmp_path, volume), cascade)
    codes = [finding.code for finding in report.quality.findings]
    assert report.quality.verdict == "warn"
    assert expected <= set(codes)
    assert len(codes) == len(set(codes))
    receipt = json.loads((tmp_path / "out/receipt.json").read_text())["receipt"]
    assert (receipt["verdict"], receipt["findings"]) == ("warn", codes)
    labels = np.asarray(nib.load(tmp_path / "out/labels.nii.gz").dataobj)
    assert np.array_equal(labels, truth.labels)


def test_a_scan_as_it_should_be_is_accepted_by_a_whole_run(cascade, phantom, tmp_path):
    report = run(request_of(tmp_path, phantom.volume), cascade)
    assert (report.quality.verdict, report.quality.findings) == ("accept", ())


def test_a_scan_without_a_liver_says_what_else_is_odd_about_it(cascade, phantom, tmp_path):
    volume, truth = flipped(phantom, (1,))
    voxels = np.asfortranarray(np.where(truth.liver, np.int16(-80), volume.voxels))
    with pytest.raises(NoLiver, match="spine lies in front"):
        run(request_of(tmp_path, Volume(voxels, volume.geometry)), cascade)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def one_sided(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    """Networks that know where in a body the liver lies: they see nothing in the picture's left half of the patient."""
    graphs = {
        "liver": liver_graph(LIVER_RANGE_HU, blind_on_the_left=True),
        "lesion": lesion_graph(LESION_RANGE_HU),
        "crf": crf_graph(),
    }
    runtime = Runtime(threads=1)
    return Cascade(load_networks(write_models(tmp_path_factory.mktemp("one-sided"), **graphs), runtime), runtime)


@pytest.mark.parametrize("stored", ["LPS", "RAS", "SAL"])
def test_in_a_scan_with_left_and_right_swapped_more_liver_is_found_in_the_mirror(one_sided, phantom, stored):
    liver_ml = np.count_nonzero(phantom.truth.liver) * phantom.volume.geometry.voxel_volume_ml
    swapped, _ = flipped(phantom, (0,))
    assert one_sided.mirrored_ml(phantom.volume.reoriented(stored)) < 0.3 * liver_ml
    assert one_sided.mirrored_ml(swapped.reoriented(stored)) > 0.7 * liver_ml


def test_of_a_swapped_scan_whose_liver_is_hardly_found_it_is_said_that_it_is_swapped(one_sided, phantom, tmp_path):
    swapped, _ = flipped(phantom, (0,))
    report = run(request_of(tmp_path, swapped), one_sided)
    assert "liver_on_left" in [finding.code for finding in report.quality.findings]
