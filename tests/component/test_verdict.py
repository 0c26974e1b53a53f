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
from tests.analytic_networks import phantom_models
from training.phantom import Phantom, abdomen

#: What makes the verdict "warn", and the codes that must be among those named.
ODD = {
    "head and foot swapped": ((2,), {"upside_down"}),
    "left and right swapped": ((0,), {"liver_on_left"}),
    "front and back swapped": ((1,), {"front_back_swapped"}),
}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    runtime = Runtime(threads=1)
    return Cascade(load_networks(phantom_models(tmp_path_factory.mktemp("models")), runtime), runtime)


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


def test_the_mirror_is_that_of_left_and_right_however_the_file_is_stored(cascade, phantom):
    """These networks see grey values only: in the mirror there is as much liver."""
    liver_ml = np.count_nonzero(phantom.truth.liver) * phantom.volume.geometry.voxel_volume_ml
    for codes in ("LPS", "RAS", "SAL"):
        assert cascade.mirrored_ml(phantom.volume.reoriented(codes)) == pytest.approx(liver_ml, rel=0.1)
