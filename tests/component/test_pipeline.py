"""The whole pipeline through files, on a phantom of exact truth, with networks that threshold Hounsfield units."""

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from app.errors import Canceled, InvalidReference, NoLiver, NotCT
from app.imaging.nifti import write_labels, write_volume
from app.imaging.volume import Segmentation, Volume
from app.inference.cascade import Cascade
from app.pipeline import FILES, STAGES, Request, run
from app.report import Report
from training.phantom import Phantom, abdomen

ORIENTATIONS = [
    "".join(pair[sign] for pair, sign in zip(axes, signs, strict=True))
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for signs in itertools.product((0, 1), repeat=3)
]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return abdomen(seed=3, shape=(64, 56, 24), spacing_mm=(5.0, 5.5, 8.0), noise_hu=0)


@pytest.fixture(scope="module")
def reference(cascade: Cascade, phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of the phantom stored as it was made."""
    return run(sent(tmp_path_factory.mktemp("upright"), phantom.volume), cascade)


def sent(folder: Path, volume: Volume, truth: Segmentation | None = None) -> Request:
    write_volume(folder / "ct.nii.gz", volume)
    if truth is not None:
        write_labels(folder / "truth.nii.gz", truth.labels, truth.geometry, header_of=None)
    return Request(folder / "ct.nii.gz", None if truth is None else folder / "truth.nii.gz", folder / "out")


def test_the_truth_comes_back_with_a_dice_of_one_and_every_file(cascade, phantom, tmp_path):
    report = run(sent(tmp_path, phantom.volume, phantom.truth), cascade)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    labels = nib.load(tmp_path / "out/labels.nii.gz")
    assert np.array_equal(np.asarray(labels.dataobj), phantom.truth.labels)
    assert report.agreement.liver.dice == report.agreement.lesion.dice == 1.0
    instances = np.asarray(nib.load(tmp_path / "out/lesions.nii.gz").dataobj)
    voxel_ml = phantom.volume.geometry.voxel_volume_ml
    for lesion in report.lesions:
        assert lesion.volume_ml == pytest.approx((instances == lesion.id).sum() * voxel_ml, abs=1e-6)
    assert set(np.unique(instances)) == {0, *(lesion.id for lesion in report.lesions)}
    liver = np.asarray(nib.load(tmp_path / "out/liver.nii.gz").dataobj)
    assert np.array_equal(liver, phantom.truth.liver)


def test_the_written_report_is_the_returned_one(cascade, phantom, tmp_path):
    report = run(sent(tmp_path, phantom.volume), cascade)
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert Report.model_validate(written) == report
    assert written["agreement"] is None
    assert set(written["timings_s"]) == {"read", "liver", "lesion", "crf", "measure", "write", "total"}
    assert set(written["models"]) == {"liver", "lesion", "crf"}


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_any_storage_gives_the_same_millilitres_and_world_coordinates(cascade, phantom, reference, tmp_path, codes):
    turned, truth = phantom.volume.reoriented(codes), phantom.truth.reoriented(codes)
    report = run(sent(tmp_path, turned, truth), cascade)
    image = nib.load(tmp_path / "out/labels.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), truth.labels)
    assert np.array_equal(image.affine, nib.load(tmp_path / "ct.nii.gz").affine)
    assert report.liver.volume_ml == pytest.approx(reference.liver.volume_ml, abs=1e-6)
    assert len(report.lesions) == len(reference.lesions)
    for found, wanted in zip(report.lesions, reference.lesions, strict=True):
        assert found.volume_ml == pytest.approx(wanted.volume_ml, abs=1e-6)
        assert found.centroid_mm == pytest.approx(wanted.centroid_mm, abs=1e-3)
        assert found.longest_axial_diameter_mm == pytest.approx(wanted.longest_axial_diameter_mm, abs=1e-3)


def test_progress_names_the_stages_in_order_and_never_goes_back(cascade, phantom, tmp_path):
    told: list[tuple[str, float]] = []
    run(sent(tmp_path, phantom.volume), cascade, lambda stage, fraction: told.append((stage, fraction)))
    stages = [stage for stage, _ in itertools.groupby(told, key=lambda each: each[0])]
    assert stages == list(STAGES)
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_can_be_ended_in_every_stage_and_leaves_no_report(cascade, phantom, tmp_path, stage):
    def stop(entered: str, _: float) -> None:
        if entered == stage:
            raise Canceled("stop")

    with pytest.raises(Canceled):
        run(sent(tmp_path, phantom.volume), cascade, stop)
    assert not (tmp_path / "out/report.json").exists()


def test_what_a_run_before_left_does_not_lie_beside_the_new_answer(cascade, phantom, tmp_path):
    request = sent(tmp_path, phantom.volume)
    request.output.mkdir()
    for name in (*FILES, "sheet.html", "follow_up.csv", "seg.dcm", "mine.txt"):
        (request.output / name).write_text("of another scan")
    run(request, cascade)
    assert {path.name for path in request.output.iterdir()} == {*FILES, "mine.txt"}
    assert [path.name for path in request.output.iterdir() if path.read_bytes() == b"of another scan"] == ["mine.txt"]


def test_of_a_run_before_the_report_goes_first(cascade, phantom, tmp_path, monkeypatch):
    request = sent(tmp_path, phantom.volume)
    run(request, cascade)

    def killed(path: Path, *_: object, **__: object) -> None:
        raise KeyboardInterrupt(path.name)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt, match=r"report\.json"):
        run(request, cascade)


def test_a_scan_without_a_liver_is_said_to_have_none(cascade, phantom, tmp_path):
    geometry = phantom.volume.geometry
    voxels = np.where(phantom.truth.liver, np.int16(-80), phantom.volume.voxels)
    with pytest.raises(NoLiver):
        run(sent(tmp_path, Volume(np.asfortranarray(voxels), geometry)), cascade)


def test_an_mr_is_refused_before_any_network_runs(cascade, phantom, tmp_path):
    voxels = np.abs(phantom.volume.voxels.astype(np.int32) + 1024).astype(np.int16)
    with pytest.raises(NotCT):
        run(sent(tmp_path, Volume(np.asfortranarray(voxels), phantom.volume.geometry)), cascade)


def test_a_reference_on_another_grid_is_refused(cascade, phantom, tmp_path):
    with pytest.raises(InvalidReference):
        run(sent(tmp_path, phantom.volume, phantom.truth.reoriented("RAS")), cascade)
