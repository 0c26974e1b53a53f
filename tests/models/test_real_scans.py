"""The shipped networks on real CT of patients they were not trained on."""

import os
from pathlib import Path

import pytest

from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.network import Runtime
from app.pipeline import Request, run

pytestmark = [pytest.mark.models, pytest.mark.data, pytest.mark.slow]

MODELS = Path(__file__).resolve().parents[2] / "models"
DATA = Path(os.environ.get("HEPASEG_DATA", ""))
KEPT_OUT = (3, 5)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    if not os.environ.get("HEPASEG_DATA") or not (DATA / "lits").is_dir():
        pytest.skip("HEPASEG_DATA names no folder with real CT (see docs/training.md)")
    return Cascade(load_networks(MODELS, Runtime()), Runtime())


@pytest.mark.parametrize("number", KEPT_OUT)
def test_the_liver_of_a_patient_never_trained_on_is_found(cascade, tmp_path, number):
    scan, reference = (DATA / "lits" / f"{kind}-{number}.nii.gz" for kind in ("volume", "segmentation"))
    report = run(Request(scan, reference, tmp_path), cascade)
    assert report.agreement.liver.dice > 0.9
    assert report.quality.verdict != "refuse"


def test_a_whole_trunk_stored_another_way_round_is_understood(cascade, tmp_path):
    """RAS, int32, 3 mm, full range of HU, from neck to thigh; the reference is another network's answer."""
    scan, reference = (DATA / "nifti" / f"totalsegmentator_{kind}_3mm.nii.gz" for kind in ("ct", "ct_liver"))
    reference = reference if reference.exists() else DATA / "nifti/totalsegmentator_liver_3mm.nii.gz"
    report = run(Request(scan, None, tmp_path), cascade)
    assert 500 < report.liver.volume_ml < 3000
