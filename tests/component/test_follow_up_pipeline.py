"""Two dates of the synthetic abdomen through the whole pipeline: the report, the files, the receipt and its replay."""

import csv
import io
import json

import numpy as np
import pytest
from click.testing import CliRunner

from app import receipt as receipts
from app.cli import main
from app.followup.shown import follow_up_csv
from app.imaging.lesions import number_lesions
from app.imaging.nifti import write_labels, write_volume
from app.imaging.volume import Geometry, Label, Volume
from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.session import Runtime
from app.jobs import worker
from app.pipeline import Request, run
from app.report import Report
from app.settings import Settings
from app.sheet import sheet_html
from tests.analytic_networks import phantom_models
from training.phantom import HOUNSFIELD, Tissue, abdomen

SHAPE, SPACING_MM = (96, 80, 40), (3.6, 3.6, 6.0)


@pytest.fixture(scope="module")
def phantom():
    return abdomen(seed=3, shape=SHAPE, spacing_mm=SPACING_MM, noise_hu=0)


@pytest.fixture(scope="module")
def dates(phantom, tmp_path_factory):
    """then/ and now/ scans: later the patient lies elsewhere, the largest lesion is gone, and a block is new."""
    folder = tmp_path_factory.mktemp("dates")
    write_volume(folder / "then.nii.gz", phantom.volume)
    voxels, labels = phantom.volume.voxels.copy(order="F"), phantom.truth.labels
    i, j, k = _largest(phantom)
    voxels[i, j, k] = np.where(labels[i, j, k] == Label.LESION, HOUNSFIELD[Tissue.LIVER], voxels[i, j, k])
    free = _room(voxels)
    voxels[free] = HOUNSFIELD[Tissue.LESION]
    affine = phantom.volume.geometry.affine.copy()
    affine[:3, 3] += (14.0, -9.0, 33.0)
    later = Volume(voxels, Geometry(SHAPE, affine)).reoriented("RAS")
    write_volume(folder / "now.nii.gz", later)
    write_labels(folder / "then-labels.nii.gz", labels, phantom.truth.geometry)
    return folder


def _largest(phantom):
    return number_lesions(phantom.truth).boxes[0].slices


def _room(voxels):
    """A block in the middle of healthy liver."""
    healthy = voxels == HOUNSFIELD[Tissue.LIVER]
    size = (5, 5, 3)
    for i, j, k in np.argwhere(healthy):
        around = tuple(slice(a - 2, a + n + 2) for a, n in zip((i, j, k), size, strict=True))
        if healthy[around].shape == (9, 9, 7) and healthy[around].all():
            return tuple(slice(a, a + n) for a, n in zip((i, j, k), size, strict=True))
    raise AssertionError("there is no room")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return phantom_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def cascade(models):
    runtime = Runtime(threads=1)
    return Cascade(load_networks(models, runtime), runtime)


@pytest.fixture(scope="module")
def answer(dates, cascade):
    """The folder with then/ and now/, the latter compared with the former."""
    run(Request(dates / "then.nii.gz", None, dates / "then"), cascade)
    prior = {"prior": dates / "then/labels.nii.gz", "prior_report": dates / "then/report.json"}
    run(Request(dates / "now.nii.gz", None, dates / "now", **prior), cascade)
    return dates


def report_of(folder):
    return Report.model_validate_json((folder / "report.json").read_text())


def hepaseg(*given):
    return CliRunner().invoke(main, [str(each) for each in given])


def test_the_report_says_what_was_done_to_each_lesion(answer):
    then, now = report_of(answer / "then"), report_of(answer / "now")
    found = now.follow_up
    assert found.comparable
    assert found.prior.lesion_count == then.lesion_count
    by_state = {}
    for row in found.lesions:
        by_state.setdefault(row.state, []).append(row)
    assert [each.prior[0].id for each in by_state["gone"]] == [1]
    assert len(by_state["new"]) == 1
    assert len(by_state["unchanged"]) == then.lesion_count - 1
    for row in by_state["unchanged"]:
        assert row.volume_ml.change == pytest.approx(0)
    assert sum(row.volume_ml.current for row in found.lesions) == pytest.approx(now.lesion_volume_ml)
    assert found.totals.burden.current == pytest.approx(now.lesion_burden)
    assert found.totals.liver_ml.prior == pytest.approx(then.liver.volume_ml)


def test_the_intervals_are_those_of_both_reports_or_wider(answer):
    now = report_of(answer / "now")
    for row in now.follow_up.lesions:
        for side, report in ((row.prior, report_of(answer / "then")), (row.current, now)):
            for each in side:
                low, high = report.lesions[each.id - 1].volume_interval_ml
                assert each.volume_interval_ml[0] <= low <= high <= each.volume_interval_ml[1]


def test_the_table_and_the_sheet_say_the_same(answer):
    report = report_of(answer / "now")
    page = sheet_html(report, b"")
    assert "Since the prior scan" in page
    assert "RECIST" in page
    table = list(csv.DictReader(io.StringIO(follow_up_csv(report.follow_up))))
    assert [each["state"] for each in table] == [row.state for row in report.follow_up.lesions]
    for line, row in zip(table, report.follow_up.lesions, strict=True):
        assert float(line["change_ml"]) == row.volume_ml.change
        assert line["prior_ids"] == " ".join(str(each.id) for each in row.prior)
        assert f">{row.state}<" in page


def test_the_command_compares_with_a_folder_and_with_labels_alone(answer, models, tmp_path):
    for prior, beside in ((answer / "then", True), (answer / "then-labels.nii.gz", False)):
        out = tmp_path / prior.name
        done = hepaseg("segment", answer / "now.nii.gz", "--prior", prior, "-o", out, "--models", models)
        assert done.exit_code == 0, done.output
        assert "Sum of longest axial diameters" in " ".join(done.output.split())
        found = report_of(out).follow_up
        assert sorted(row.state for row in found.lesions) == sorted(
            row.state for row in report_of(answer / "now").follow_up.lesions
        )
        assert (found.prior.report_sha256 is not None) is beside
        assert (out / "follow_up.csv").read_text().startswith("state,")


def test_the_receipt_covers_the_prior_and_a_replay_repeats_it(answer, models, tmp_path, monkeypatch):
    stated = receipts.read(answer / "now").receipt
    assert stated.prior == receipts.sha256_of(answer / "then/labels.nii.gz")
    assert stated.prior_report == receipts.sha256_of(answer / "then/report.json")
    monkeypatch.setenv("HEPASEG_THREADS", "2")
    words = ("replay", answer / "now", answer / "now.nii.gz", "--models", models, "-o")
    done = hepaseg(*words, tmp_path / "again", "--prior", answer / "then")
    assert done.exit_code == 0, done.output
    assert "The same bytes again" in done.output
    for given in ((), ("--prior", answer / "then-labels.nii.gz"), ("--prior", answer / "then/labels.nii.gz")):
        done = hepaseg(*words, tmp_path / "other", *given)
        assert (done.exit_code, "needs its prior" in done.output) == (2, True)


def test_a_receipt_without_a_prior_says_nothing_of_one(answer):
    content = json.loads((answer / "then" / receipts.NAME).read_text())
    assert not [name for name in content["receipt"] if name.startswith("prior")]
    assert report_of(answer / "then").follow_up is None


def test_a_prior_that_cannot_be_compared_is_a_warning_and_the_rest_stands(dates, cascade, phantom):
    empty = np.zeros(SHAPE, np.uint8, order="F")
    write_labels(dates / "empty.nii.gz", empty, phantom.truth.geometry)
    report = run(Request(dates / "now.nii.gz", None, dates / "alone", prior=dates / "empty.nii.gz"), cascade)
    assert (report.follow_up.comparable, report.lesion_count > 0) == (False, True)
    assert "prior_without_liver" in [found.code for found in report.quality.findings]
    assert report.quality.verdict == "warn"
    assert "Cannot be compared" in sheet_html(report, b"")


def test_the_command_says_what_is_wrong_with_a_prior(dates, models, tmp_path):
    words = ("segment", dates / "now.nii.gz", "-o", tmp_path / "out", "--models", models, "--prior")
    (tmp_path / "nothing").mkdir()
    done = hepaseg(*words, tmp_path / "nothing")
    assert (done.exit_code, "no labels.nii.gz" in done.output) == (2, True)
    done = hepaseg(*words, dates / "now.nii.gz")
    assert (done.exit_code, "cannot be read" in done.output) == (1, True)
    done = hepaseg("segment", dates, "-o", tmp_path / "out", "--prior", dates / "then-labels.nii.gz")
    assert (done.exit_code, "about one scan" in done.output) == (2, True)
    before = tmp_path / "before"
    before.mkdir()
    write_labels(before / "labels.nii.gz", np.zeros(SHAPE, np.uint8, order="F"), Geometry(SHAPE, np.eye(4)))
    done = hepaseg("segment", dates / "now.nii.gz", "-o", before, "--prior", before)
    assert (done.exit_code, "would be overwritten" in done.output) == (2, True)


def test_the_worker_of_a_service_compares_too(answer, models, tmp_path):
    run_job, _ = worker._prepare(Settings(models_dir=models, threads=1))
    prior = answer / "then/labels.nii.gz", answer / "then/report.json"
    run_job(worker.Work(answer / "now.nii.gz", None, tmp_path / "job", None, *prior), lambda *_: None)
    again = report_of(tmp_path / "job")
    assert again.follow_up == report_of(answer / "now").follow_up
