"""A folder of scans whose run was ended goes on where it was, and nothing that changed is taken for done."""

import json
import shutil

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app import pipeline
from app import receipt as receipts
from app.cli import main
from app.errors import InvalidVoxels
from app.imaging.nifti import write_labels, write_volume
from tests.analytic_networks import lesion_graph, liver_graph, phantom_models, write_models
from training.phantom import LESION_RANGE_HU, LIVER_RANGE_HU, abdomen

NAMES = ("a", "b/c")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder with models, two scans, their truth, and the results of both."""
    root = tmp_path_factory.mktemp("scene")
    (root / "in/b").mkdir(parents=True)
    (root / "truth").mkdir()
    for seed, name in enumerate(NAMES):
        phantom = abdomen(seed=seed, shape=(48, 40, 20), spacing_mm=(6.5, 7.5, 9.5), noise_hu=0)
        write_volume(root / f"in/{name}.nii.gz", phantom.volume)
        write_labels(root / f"truth/{name[-1]}.nii.gz", phantom.truth.labels, phantom.truth.geometry, header_of=None)
    shutil.copytree(phantom_models(tmp_path_factory.mktemp("models")), root / "models")
    assert segment(root).exit_code == 0
    return root


@pytest.fixture
def done(scene, tmp_path):
    return shutil.copytree(scene, tmp_path / "copy")


def segment(root, *options, inputs=("in",)):
    given = [root / name for name in inputs]
    words = ["segment", *given, "-o", root / "out", "--models", root / "models", "-q", *options]
    return CliRunner().invoke(main, [str(word) for word in words])


def made_again(root, *options):
    """The scans that a second run segmented, and what it said."""
    before = {name: (root / "out" / name / "report.json").stat().st_mtime_ns for name in NAMES}
    result = segment(root, *options)
    assert result.exit_code == 0, result.output
    after = {name: (root / "out" / name / "report.json").stat().st_mtime_ns for name in NAMES}
    again = {name for name in NAMES if before[name] != after[name]}
    assert {name for name in NAMES if f"{name}: as before" in result.stderr} == set(NAMES) - again
    assert [row["status"] for row in json.loads((root / "out/summary.json").read_text())] == ["succeeded"] * 2
    return again


def test_what_was_segmented_is_not_segmented_again(done, monkeypatch):
    summary = (done / "out/summary.csv").read_text()
    (done / "out/summary.csv").unlink()
    (done / "out/b/c/sheet.html").unlink()
    monkeypatch.setenv("HEPASEG_THREADS", "1")  # how fast is no matter
    assert made_again(done) == set()
    assert (done / "out/summary.csv").read_text() == summary
    assert (done / "out/b/c/sheet.html").exists()


def test_a_run_that_ended_in_the_middle_goes_on(done, monkeypatch):
    shutil.rmtree(done / "out")
    run = pipeline.run
    monkeypatch.setattr(pipeline, "run", lambda request, *rest: _ends(request) or run(request, *rest))
    assert segment(done).exit_code == 1
    assert (done / "out/a/report.json").exists()
    assert not (done / "out/b/c").exists()
    monkeypatch.undo()
    result = segment(done)
    assert result.exit_code == 0
    assert "a: as before" in result.stderr
    assert "c: as before" not in result.stderr
    assert (done / "out/b/c/report.json").exists()


def _ends(request):
    if request.output.name == "c":
        raise InvalidVoxels("the power fails here")


def _another_scan(root):
    shutil.copyfile(root / "in/a.nii.gz", root / "in/b/c.nii.gz")


def _a_result_was_changed(root):
    with (root / "out/b/c/labels.nii.gz").open("ab") as file:
        file.write(b"\0")


def _a_result_is_missing(root):
    (root / "out/b/c/preview.png").unlink()


def _the_receipt_is_missing(root):
    (root / "out/b/c/receipt.json").unlink()


def _it_was_made_by_other_code(root):
    path = root / "out/b/c" / receipts.NAME
    content = json.loads(path.read_text())
    content["receipt"]["software"]["code_sha256"] = "0" * 64
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [_another_scan, _a_result_was_changed, _a_result_is_missing, _the_receipt_is_missing, _it_was_made_by_other_code],
)
def test_a_scan_is_segmented_again_where_anything_about_it_changed(done, change):
    change(done)
    assert made_again(done) == {"b/c"}


def test_all_are_segmented_again_with_a_reference_another_option_or_other_networks(done, tmp_path):
    assert made_again(done, "--reference", done / "truth") == set(NAMES)
    assert made_again(done, "--reference", done / "truth") == set()
    assert made_again(done, "--reference", done / "truth", "--crf-backend", "none") == set(NAMES)
    low_hu, high_hu = LIVER_RANGE_HU
    other = write_models(
        tmp_path / "other", liver=liver_graph((low_hu + 1, high_hu)), lesion=lesion_graph(LESION_RANGE_HU)
    )
    assert made_again(done, "--models", other) == set(NAMES)


def test_a_signature_that_is_wanted_is_made_up_for(done, tmp_path, monkeypatch):
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    monkeypatch.setenv("HEPASEG_SIGNING_KEY", str(path))
    assert made_again(done) == set(NAMES)
    assert made_again(done) == set()


def test_a_single_scan_is_segmented_whenever_it_is_asked_for(done):
    written = set()
    for _ in range(2):
        result = segment(done, inputs=("in/a.nii.gz",))
        assert result.exit_code == 0
        assert "as before" not in result.stderr
        written.add((done / "out/report.json").stat().st_mtime_ns)
    assert len(written) == 2
