"""`hepaseg evaluate` as a person types it: bad cases beside good ones, ended and begun again, labels of others."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.imaging.nifti import write_labels, write_volume
from app.imaging.volume import Volume
from tests.analytic_networks import phantom_models
from training.phantom import abdomen

SHAPE, SPACING_MM = (64, 56, 24), (5.0, 5.5, 8.0)


def a_case(folder: Path, number: int, seed: int, *, grown=False, no_liver=False):
    phantom = abdomen(seed=seed, shape=SHAPE, spacing_mm=SPACING_MM, noise_hu=0)
    voxels, labels = phantom.volume.voxels, np.array(phantom.truth.labels, order="F")
    if no_liver:
        voxels = np.asfortranarray(np.where(phantom.truth.liver, np.int16(-80), voxels))
    if grown:
        labels = np.maximum(labels, np.roll(labels > 0, 1, axis=0).astype(np.uint8))
    write_volume(folder / f"volume-{number}.nii.gz", Volume(voxels, phantom.volume.geometry))
    write_labels(folder / f"segmentation-{number}.nii.gz", labels, phantom.truth.geometry, header_of=None)


@pytest.fixture(scope="module")
def test_set(tmp_path_factory) -> Path:
    """Two perfect cases, one whose reference is larger, one without a liver, one cut off, one with a bad reference."""
    folder = tmp_path_factory.mktemp("set")
    for number in (0, 1):
        a_case(folder, number, seed=number)
    a_case(folder, 2, seed=2, grown=True)
    a_case(folder, 3, seed=3, no_liver=True)
    for number in (4, 5):
        a_case(folder, number, seed=4)
    whole = (folder / "volume-4.nii.gz").read_bytes()
    (folder / "volume-4.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "segmentation-5.nii.gz").write_bytes((folder / "volume-5.nii.gz").read_bytes())
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return phantom_models(tmp_path_factory.mktemp("models"))


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "evaluate", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def done(test_set, models, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated")
    return evaluate(test_set, "-o", output, "--models", models), output


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_bad_cases_are_named_and_do_not_end_the_run(done):
    ended, output = done
    assert ended.returncode == 1, ended.stderr
    rows = rows_of(output / "cases.csv")
    assert [(row["status"], row["code"]) for row in rows.values()] == [
        ("scored", ""), ("scored", ""), ("scored", ""), ("no_answer", "no_liver"), ("failed", "corrupt_file"),
        ("failed", "invalid_reference"),
    ]  # fmt: skip
    assert [row["liver_dice"] for row in rows.values()][:2] == ["1.0", "1.0"]
    assert 0.8 < float(rows["volume-2"]["liver_dice"]) < 1
    assert float(rows["volume-3"]["liver_dice"]) == 0
    assert rows["volume-4"]["liver_dice"] == ""
    assert "volume-4: corrupt_file" in ended.stderr


def test_the_figures_are_written_and_shown(done):
    ended, output = done
    summary = json.loads((output / "evaluation.json").read_text())
    dice = [float(row["liver_dice"]) for row in rows_of(output / "cases.csv").values() if row["liver_dice"]]
    assert (summary["scored"], summary["no_answer"], summary["failed"]) == (3, 1, 2)
    assert summary["liver"]["dice"]["value"] == pytest.approx(np.mean(dice))
    assert f"{np.mean(dice):.3f} (" in ended.stdout
    assert "any overlap: two lesions match if they share a voxel" in ended.stdout
    assert "percentile bootstrap over cases" in ended.stdout


def test_each_case_has_its_folder_sheet_and_picture(done):
    _, output = done
    case = output / "cases" / "volume-2"
    assert {"labels.nii.gz", "report.json", "sheet.html", "differences.png", "score.json"} <= {
        path.name for path in case.iterdir()
    }
    with Image.open(case / "differences.png") as picture:
        blue = np.abs(np.asarray(picture.convert("RGB"), int)[..., 2] - np.asarray(picture.convert("RGB"), int)[..., 0])
    assert (blue > 100).sum() > 200  # what was missed
    page = (output / "evaluation.html").read_text("utf-8")
    for source in ("cases/volume-2/differences.png", "cases/volume-2/sheet.html", "cases/volume-3/differences.png"):
        assert f'"{source}"' in page
        assert (output / source).exists()


def test_a_run_that_was_ended_goes_on_where_it_was(done, test_set, models, tmp_path):
    output = tmp_path / "again"
    shutil.copytree(done[1], output)
    (output / "cases" / "volume-1" / "score.json").unlink()
    times = {n: (output / "cases" / f"volume-{n}" / "score.json").stat().st_mtime_ns for n in (0, 2, 3)}
    ended = evaluate(test_set, "-o", output, "--models", models)
    assert ended.returncode == 1
    assert times == {n: (output / "cases" / f"volume-{n}" / "score.json").stat().st_mtime_ns for n in times}
    assert ended.stderr.count("(as before)") == 3
    assert (output / "cases.csv").read_text().count("\n") == 7
    assert rows_of(output / "cases.csv")["volume-1"]["liver_dice"] == "1.0"
    assert json.loads((output / "evaluation.json").read_text()) == json.loads((done[1] / "evaluation.json").read_text())


def test_a_changed_reference_is_compared_anew(done, test_set, models, tmp_path):
    folder, output = tmp_path / "set", tmp_path / "out"
    folder.mkdir()
    for name in ("volume-0.nii.gz", "segmentation-0.nii.gz"):
        shutil.copy(test_set / name, folder / name)
    assert evaluate(folder, "-o", output, "--models", models).returncode == 0
    a_case(folder, 0, seed=0, grown=True)
    ended = evaluate(folder, "-o", output, "--models", models)
    assert ended.returncode == 0
    assert "as before" not in ended.stderr
    assert float(rows_of(output / "cases.csv")["volume-0"]["liver_dice"]) < 1


def test_labels_made_before_are_scored_alike_without_any_network(done, test_set, tmp_path):
    ended = evaluate(test_set, "-o", tmp_path, "--results", done[1], "--models", tmp_path)
    assert ended.returncode == 1
    ours, theirs = rows_of(done[1] / "cases.csv"), rows_of(tmp_path / "cases.csv")
    for number in (0, 1, 2):
        one, other = ours[f"volume-{number}"], theirs[f"volume-{number}"]
        one.pop("seconds"), other.pop("seconds")
        assert one == other
    assert theirs["volume-3"]["code"] == "no_result"


def test_a_folder_without_references_is_a_wrong_command(tmp_path):
    ended = evaluate(tmp_path, "-o", tmp_path / "out")
    assert ended.returncode == 2
    assert "volume-N" in ended.stderr
