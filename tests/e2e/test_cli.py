"""The command `hepaseg` as a person types it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import nibabel as nib
import numpy as np
import pytest

from app.imaging.nifti import write_labels, write_volume
from app.imaging.volume import Volume
from app.pipeline import FILES, SERIES_FILES
from app.quality import MEND
from tests.analytic_networks import phantom_models
from tests.dicom_files import MARKS, change, series_of, zipped
from training.phantom import Phantom, abdomen


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return abdomen(seed=1, shape=(64, 56, 24), spacing_mm=(5.0, 5.5, 8.0), noise_hu=0)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, phantom: Phantom) -> Path:
    """A folder: models, one scan with its truth, and a file that is not a scan."""
    folder = tmp_path_factory.mktemp("scans")
    phantom_models(folder / "models")
    write_volume(folder / "ct.nii.gz", phantom.volume)
    write_labels(folder / "truth.nii.gz", phantom.truth.labels, phantom.truth.geometry, header_of=None)
    (folder / "photo.nii.gz").write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    return folder


def hepaseg(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_a_scan_becomes_masks_a_report_and_a_table(scans, phantom, tmp_path):
    done = hepaseg(
        "segment", scans / "ct.nii.gz", "-o", tmp_path, "--reference", scans / "truth.nii.gz",
        "--models", scans / "models",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "sheet.html"}
    assert np.array_equal(np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj), phantom.truth.labels)
    assert json.loads((tmp_path / "report.json").read_text())["agreement"]["liver"]["dice"] == 1.0
    assert "against the" in done.stdout
    assert f"lesions {len(phantom.lesions)}" in done.stdout


def test_of_a_zip_with_several_series_the_named_one_is_segmented(scans, phantom, tmp_path):
    other = [change(each, {"SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": f"1.2.3.4.{k}"})
             for k, each in enumerate(series_of(phantom.volume)[:5])]  # fmt: skip
    (tmp_path / "in").mkdir()
    path = zipped(tmp_path / "in", [*other, *series_of(phantom.volume)])
    path = path.rename(path.with_suffix(".zip"))
    common = ("-o", tmp_path / "out", "--models", scans / "models")
    refused = hepaseg("segment", tmp_path / "in", *common)
    assert refused.returncode == 1
    assert "[several_series]" in refused.stderr
    done = hepaseg("segment", path, "--series", MARKS["SeriesInstanceUID"][-8:], *common)
    assert done.returncode == 0, done.stderr
    assert {each.name for each in (tmp_path / "out").iterdir()} == {*FILES, *SERIES_FILES, "sheet.html"}


def test_one_bad_scan_does_not_stop_the_others_and_is_named(scans, tmp_path):
    done = hepaseg("segment", scans / "photo.nii.gz", scans / "ct.nii.gz", "-o", tmp_path, "--models", scans / "models")
    assert done.returncode == 1
    assert "photo" in done.stderr
    assert "[unsupported_format]" in done.stderr
    assert (tmp_path / "ct/report.json").exists()
    assert not (tmp_path / "photo").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(case["name"], case["status"]) for case in summary] == [("photo", "failed"), ("ct", "succeeded")]


def test_a_scan_that_is_refused_is_named_with_its_code_and_what_to_mend(scans, phantom, tmp_path):
    raw = Volume(np.asfortranarray(phantom.volume.voxels + 1024), phantom.volume.geometry)
    write_volume(tmp_path / "raw.nii.gz", raw)
    done = hepaseg("segment", tmp_path / "raw.nii.gz", "-o", tmp_path / "out", "--models", scans / "models")
    assert done.returncode == 1
    assert "[not_ct]" in done.stderr
    assert MEND["not_ct"] in " ".join(done.stderr.split())
    assert not (tmp_path / "out/report.json").exists()


@pytest.fixture
def opened(tmp_path_factory, monkeypatch) -> Path:
    """A file that holds the address that a browser was last asked to open."""
    folder = tmp_path_factory.mktemp("browser")
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{folder}/part" && mv "{folder}/part" "{folder}/opened"\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    return folder / "opened"


def test_open_shows_the_sheet_of_one_scan(scans, phantom, tmp_path, opened):
    models = ("--models", scans / "models")
    assert hepaseg("segment", scans / "ct.nii.gz", "-o", tmp_path, *models).returncode == 0
    assert not opened.exists()
    done = hepaseg("segment", scans / "ct.nii.gz", "-o", tmp_path, *models, "--open")
    assert done.returncode == 0, done.stderr
    assert opened.read_text().strip() == (tmp_path / "sheet.html").as_uri()
    volume_ml = json.loads((tmp_path / "report.json").read_text())["liver"]["volume_ml"]
    assert f"{volume_ml:.0f} ml" in (tmp_path / "sheet.html").read_text("utf-8")


def test_open_shows_one_page_over_several_scans(scans, tmp_path, opened):
    done = hepaseg(
        "segment", scans / "photo.nii.gz", scans / "ct.nii.gz", "-o", tmp_path, "--models", scans / "models", "--open"
    )
    assert done.returncode == 1
    assert opened.read_text().strip() == (tmp_path / "summary.html").as_uri()
    page = (tmp_path / "summary.html").read_text("utf-8")
    assert "2 scans, 1 failed" in page
    assert "the file is a JPEG picture" in page
    assert '<a href="ct/sheet.html">' in page
    assert (tmp_path / "ct/sheet.html").exists()


def test_serve_opens_its_page_once_it_listens(scans, tmp_path, opened):
    given = os.environ | {"HEPASEG_DATA_DIR": str(tmp_path), "HEPASEG_MODELS_DIR": str(scans / "models")}
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "app", "serve", "--port", "0", "--open"]
        service = subprocess.Popen(command, env=given, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 200
        while not opened.exists():
            assert service.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "<title>Hepaseg</title>" in httpx.get(opened.read_text().strip(), timeout=60).text
    finally:
        service.terminate()
        service.wait(timeout=60)


def test_broken_networks_are_named_without_a_traceback(scans, tmp_path):
    models = phantom_models(tmp_path / "models")
    (models / "liver-0.0.1.onnx").write_bytes(b"not a network")
    done = hepaseg("segment", scans / "ct.nii.gz", "-o", tmp_path / "out", "--models", models)
    assert done.returncode == 1
    assert "liver-0.0.1.onnx" in done.stderr
    assert "[broken_model]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_command_says_so_with_status_two(tmp_path):
    done = hepaseg("segment", tmp_path / "missing.nii.gz", "-o", tmp_path)
    assert done.returncode == 2
    assert "missing.nii.gz" in done.stderr


def test_a_setting_out_of_range_is_named_without_a_traceback(monkeypatch):
    monkeypatch.setenv("HEPASEG_BATCH", "none")
    done = hepaseg("models")
    assert done.returncode == 2
    assert "HEPASEG_BATCH" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_prints_the_cards(scans):
    done = hepaseg("models", "--models", scans / "models")
    assert done.returncode == 0
    assert '"task": "lesion"' in done.stdout


def test_demo_shows_the_whole_way_over_http(scans, tmp_path, monkeypatch):
    monkeypatch.setenv("HEPASEG_MODELS_DIR", str(scans / "models"))
    done = hepaseg("demo", "--ct", scans / "ct.nii.gz", "--reference", scans / "truth.nii.gz", "-o", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(FILES) <= {path.name for path in tmp_path.iterdir()}
    assert "1.000" in done.stdout
    assert "Research use only" in done.stdout


def test_demo_with_a_bad_scan_says_what_to_mend(scans, tmp_path, monkeypatch):
    monkeypatch.setenv("HEPASEG_MODELS_DIR", str(scans / "models"))
    done = hepaseg("demo", "--ct", scans / "photo.nii.gz", "-o", tmp_path)
    assert done.returncode == 1
    assert "[unsupported_format]" in done.stderr
    assert "Traceback" not in done.stderr
