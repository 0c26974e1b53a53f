"""`hepaseg serve` as it is, with networks that segment the synthetic abdomen exactly."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import nibabel as nib
import numpy as np
import pytest

from app.imaging.nifti import write_labels, write_volume
from app.imaging.volume import Volume
from app.quality import MEND
from app.report import Report
from tests.analytic_networks import phantom_models
from tests.waiting import PATIENCE_S, until
from training.phantom import Phantom, abdomen


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return abdomen(seed=3, shape=(96, 80, 40), spacing_mm=(3.6, 3.6, 6.0), noise_hu=0)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {
        "HEPASEG_DATA_DIR": str(folder / "data"),
        "HEPASEG_MODELS_DIR": str(phantom_models(folder / "models")),
        "HEPASEG_PORT": str(port),
        "HEPASEG_THREADS": "1",
        "HEPASEG_MIN_FREE_BYTES": "0",
    }
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"], env={**os.environ, **given}, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert service.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{address}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(lambda: ready() or None)
        yield address
        service.terminate()
        assert service.wait(PATIENCE_S) == 0
    finally:
        service.kill()
        service.wait()


def test_a_ct_goes_in_and_the_truth_comes_out(url: str, phantom: Phantom, tmp_path: Path):
    write_volume(tmp_path / "ct.nii.gz", phantom.volume)
    write_labels(tmp_path / "truth.nii.gz", phantom.truth.labels, phantom.truth.geometry, None)
    sent = {"file": "ct.nii.gz", "reference": "truth.nii.gz"}
    files = {field: (tmp_path / name).read_bytes() for field, name in sent.items()}
    response = httpx.post(f"{url}/segment", files=files, headers={"Prefer": "wait=60"}, timeout=90)
    assert response.status_code == 200, response.text
    job = response.json()
    assert (job["status"], job["error"]) == ("succeeded", None)
    report = Report.model_validate(job["report"])
    assert report.agreement is not None
    assert report.agreement.liver.dice == report.agreement.lesion.dice == 1.0
    assert report.lesion_count == len(phantom.lesions)
    (tmp_path / "labels.nii.gz").write_bytes(httpx.get(url + job["links"]["labels"]).content)
    labels = nib.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(np.asarray(labels.dataobj), phantom.truth.labels)
    assert np.allclose(labels.affine, phantom.volume.geometry.affine, atol=1e-5)
    for name in ("liver", "lesions", "report", "preview"):
        assert httpx.get(url + job["links"][name]).status_code == 200
    cards = httpx.get(f"{url}/models").json()
    assert {task: card["sha256"] for task, card in cards.items()} == {
        task: network.sha256 for task, network in report.models.items()
    }


def test_a_scan_that_shows_to_be_no_ct_when_it_is_read_fails_with_what_to_mend(url, phantom, tmp_path):
    halved = Volume(np.asfortranarray(phantom.volume.voxels // 2), phantom.volume.geometry)
    write_volume(tmp_path / "ct.nii.gz", halved)
    files = {"file": (tmp_path / "ct.nii.gz").read_bytes()}
    job = httpx.post(f"{url}/segment", files=files, headers={"Prefer": "wait=60"}, timeout=90).json()
    assert (job["status"], job["error"]["code"], job["error"]["status"]) == ("failed", "not_hounsfield", 422)
    assert MEND["not_hounsfield"] in job["error"]["detail"]
    assert job["links"]["labels"] is None


def test_a_scan_that_is_odd_gets_its_masks_and_warnings(url: str, phantom: Phantom, tmp_path: Path):
    upside_down = Volume(np.asfortranarray(phantom.volume.voxels[:, :, ::-1]), phantom.volume.geometry)
    write_volume(tmp_path / "ct.nii.gz", upside_down)
    files = {"file": (tmp_path / "ct.nii.gz").read_bytes()}
    job = httpx.post(f"{url}/segment", files=files, headers={"Prefer": "wait=60"}, timeout=90).json()
    assert (job["status"], job["report"]["quality"]["verdict"]) == ("succeeded", "warn")
    assert "upside_down" in [warning["code"] for warning in job["warnings"]]
    (tmp_path / "labels.nii.gz").write_bytes(httpx.get(url + job["links"]["labels"]).content)
    labels = np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj)
    assert np.array_equal(labels, phantom.truth.labels[:, :, ::-1])
