"""What a receipt states holds, and what was changed afterwards is found out."""

import base64
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from app import receipt as receipts
from app.cli import main
from app.errors import BrokenReceipt, InvalidRequest
from app.imaging.nifti import write_labels, write_volume
from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.session import Runtime
from app.jobs import worker
from app.pipeline import FILES, Request, run
from app.settings import Settings
from tests.analytic_networks import phantom_models
from training.phantom import abdomen

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return phantom_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def answer(models, tmp_path):
    """A folder with scan.nii.gz, truth.nii.gz and the results in out/."""
    phantom = abdomen(seed=3, shape=(48, 40, 20), spacing_mm=(6.5, 7.5, 9.5), noise_hu=0)
    write_volume(tmp_path / "scan.nii.gz", phantom.volume)
    write_labels(tmp_path / "truth.nii.gz", phantom.truth.labels, phantom.truth.geometry, header_of=None)
    runtime = Runtime(threads=1)
    request = Request(tmp_path / "scan.nii.gz", tmp_path / "truth.nii.gz", tmp_path / "out", signing_key=KEY)
    run(request, Cascade(load_networks(models, runtime), runtime))
    return tmp_path


def pem(folder, key):
    path = folder / "key.pub"
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def hepaseg(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def rewritten(folder, change):
    path = folder / "out" / receipts.NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_receipt_names_what_went_in_what_ran_and_what_came_out(answer):
    content = json.loads((answer / "out" / receipts.NAME).read_text())
    stated = content["receipt"]
    for name in set(FILES) - {receipts.NAME}:
        assert stated["outputs"][name] == hashlib.sha256((answer / "out" / name).read_bytes()).hexdigest()
    assert set(stated["outputs"]) == set(FILES) - {receipts.NAME}
    assert stated["scan"] == hashlib.sha256((answer / "scan.nii.gz").read_bytes()).hexdigest()
    assert stated["reference"] == hashlib.sha256((answer / "truth.nii.gz").read_bytes()).hexdigest()
    report = json.loads((answer / "out/report.json").read_text())
    assert stated["networks"] == report["models"]
    assert stated["timings_s"] == report["timings_s"]
    assert stated["verdict"] == report["quality"]["verdict"]
    assert stated["software"]["libraries"]["numpy"] == np.__version__


def test_what_a_run_before_left_in_the_folder_is_no_part_of_the_answer(answer, models):
    runtime = Runtime(threads=1)
    for name in ("seg.dcm", "rtstruct.dcm", "scan.nii.gz"):
        (answer / "out" / name).write_bytes(b"of another scan")
    (answer / "out/notes.txt").write_text("not ours")
    run(Request(answer / "scan.nii.gz", None, answer / "out"), Cascade(load_networks(models, runtime), runtime))
    assert {path.name for path in (answer / "out").iterdir()} == {*FILES, "notes.txt"}
    assert set(receipts.read(answer / "out").receipt.outputs) == set(FILES) - {receipts.NAME}


def test_a_scan_that_lies_in_the_folder_of_its_results_stays(answer, models):
    runtime, scan = Runtime(threads=1), answer / "out/scan.nii.gz"
    scan.write_bytes((answer / "scan.nii.gz").read_bytes())
    run(Request(scan, None, answer / "out"), Cascade(load_networks(models, runtime), runtime))
    assert scan.read_bytes() == (answer / "scan.nii.gz").read_bytes()


def test_the_signature_is_one_that_any_other_program_can_check(answer):
    content = json.loads((answer / "out" / receipts.NAME).read_text())
    signed = json.dumps(content["receipt"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert base64.b64decode(content["signature"]["public_key"]) == KEY.public_key().public_bytes_raw()
    KEY.public_key().verify(base64.b64decode(content["signature"]["value"]), signed)


def test_what_is_as_it_was_written_is_verified_by_the_key_that_one_trusts(answer):
    for words in ((), ("--key", pem(answer, KEY))):
        done = hepaseg("verify", answer / "out", *words)
        assert done.exit_code == 0, done.output
        assert receipts.fingerprint(KEY.public_key()) in done.output


@pytest.mark.parametrize("name", sorted(set(FILES) - {receipts.NAME}))
def test_a_result_that_was_changed_or_removed_is_named(answer, name):
    path = answer / "out" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = hepaseg("verify", answer / "out")
    assert (done.exit_code, f"{name} (changed)" in done.output) == (1, True)
    path.unlink()
    assert f"{name} (missing)" in hepaseg("verify", answer / "out").output


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["receipt"].update(verdict="refuse"),
        lambda content: content["receipt"]["outputs"].update({"labels.nii.gz": "0" * 64}),
        lambda content: content["signature"].update(value=base64.b64encode(bytes(64)).decode()),
        lambda content: content["signature"].update(value="no base64 at all"),
        lambda content: content["signature"].update(public_key=base64.b64encode(b"short").decode()),
    ],
)
def test_a_receipt_that_was_changed_no_longer_fits_its_signature(answer, change):
    rewritten(answer, change)
    done = hepaseg("verify", answer / "out")
    assert (done.exit_code, "does not fit" in done.output) == (1, True)


def test_another_signer_and_no_signer_are_told_from_the_trusted_one(answer):
    done = hepaseg("verify", answer / "out", "--key", pem(answer, OTHER))
    assert (done.exit_code, "another key" in done.output) == (1, True)
    rewritten(answer, lambda content: content.update(signature=None))
    done = hepaseg("verify", answer / "out", "--key", pem(answer, KEY))
    assert (done.exit_code, "not signed" in done.output) == (1, True)
    done = hepaseg("verify", answer / "out")
    assert (done.exit_code, "Not signed" in done.output) == (0, True)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"receipt": 3, "signature": null}', b"\xff\x00"])
def test_what_is_no_receipt_is_said_to_be_none(answer, content):
    path = answer / "out" / receipts.NAME
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BrokenReceipt, match=receipts.NAME):
        receipts.read(answer / "out")


def test_a_replay_gives_the_same_bytes_whatever_the_threads_and_the_batch(answer, models, monkeypatch):
    for threads, batch in ((1, 1), (2, 3), (2, 50)):
        monkeypatch.setenv("HEPASEG_THREADS", str(threads))
        monkeypatch.setenv("HEPASEG_BATCH", str(batch))
        words = ("--reference", answer / "truth.nii.gz", "--models", models, "-o", answer / f"again-{batch}")
        done = hepaseg("replay", answer / "out", answer / "scan.nii.gz", *words)
        assert done.exit_code == 0, done.output
        assert "The same bytes again" in done.output


def test_a_replay_of_an_answer_that_was_forged_says_what_came_out_otherwise(answer, models):
    out = answer / "out"
    forged = receipts.read(out).receipt
    forged = forged.model_copy(update={"outputs": forged.outputs | {"labels.nii.gz": "0" * 64}})
    (out / receipts.NAME).write_text(receipts.signed(forged, OTHER).model_dump_json())
    words = ("--reference", answer / "truth.nii.gz", "--models", models, "-o", answer / "again")
    done = hepaseg("replay", out, answer / "scan.nii.gz", *words)
    assert done.exit_code == 1
    assert "Came out otherwise: labels.nii.gz." in done.output


def test_a_replay_wants_the_same_scan_reference_and_networks(answer, models, tmp_path_factory):
    out, scan = answer / "out", answer / "scan.nii.gz"
    to = ("-o", answer / "again")
    reference = ("--reference", answer / "truth.nii.gz")
    done = hepaseg("replay", out, answer / "truth.nii.gz", *reference, "--models", models, *to)
    assert (done.exit_code, "not the scan" in done.output) == (2, True)
    done = hepaseg("replay", out, scan, "--models", models, *to)
    assert (done.exit_code, "needs its reference" in done.output) == (2, True)
    done = hepaseg("replay", out, scan, *reference, *to)  # with the networks that are shipped
    assert (done.exit_code, "Other networks" in done.output) == (2, True)
    assert not (answer / "again").exists()


def test_a_key_that_cannot_sign_is_refused_before_anything_runs(tmp_path):
    path = tmp_path / "key.pem"
    with pytest.raises(InvalidRequest, match="HEPASEG_SIGNING_KEY"):
        receipts.private_key(path)
    path.write_text("no key")
    with pytest.raises(InvalidRequest, match="no readable private key"):
        receipts.private_key(path)
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert receipts.private_key(path).private_bytes_raw() == KEY.private_bytes_raw()


def test_the_worker_of_a_service_signs_with_its_key(answer, models):
    path = answer / "key.pem"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    run_job, _ = worker._prepare(Settings(models_dir=models, signing_key=str(path), threads=1))
    run_job(worker.Work(answer / "scan.nii.gz", None, answer / "job"), lambda *_: None)
    found = receipts.read(answer / "job")
    assert found.key().public_bytes_raw() == KEY.public_key().public_bytes_raw()
    assert found.receipt.reference is None


def test_the_key_itself_is_in_no_log_and_no_receipt(answer):
    request = Request(answer / "scan.nii.gz", None, answer / "out", signing_key=KEY)
    assert "signing_key" not in repr(request)
    assert base64.b64encode(KEY.private_bytes_raw()).decode() not in (answer / "out" / receipts.NAME).read_text()
    assert replace(request, signing_key=None).signing_key is None
