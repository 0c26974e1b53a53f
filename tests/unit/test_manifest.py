"""A models folder is believed only as far as it can be checked."""

import hashlib
import json

import pytest

from app.errors import BrokenModel
from app.inference import session
from app.inference.manifest import load_networks
from app.inference.network import Runtime
from tests.analytic_networks import lesion_graph, liver_graph, with_card, write_models

RUNTIME = Runtime(threads=1)


@pytest.fixture
def models(tmp_path):
    return write_models(tmp_path / "models", liver=liver_graph((50, 150)), lesion=lesion_graph((0, 40)))


def edited(models, edit) -> None:
    manifest = json.loads((models / "manifest.json").read_text())
    edit(manifest)
    (models / "manifest.json").write_text(json.dumps(manifest))


def test_the_networks_come_back_with_their_cards_and_hashes(models):
    networks = load_networks(models, RUNTIME)
    for task in ("liver", "lesion", "crf"):
        network = getattr(networks, task)
        assert network.card.task == task
        assert network.sha256 == hashlib.sha256((models / network.name).read_bytes()).hexdigest()


def test_a_file_altered_after_it_was_listed_is_refused(models):
    file = models / "liver-0.0.1.onnx"
    file.write_bytes(with_card(file.read_bytes(), threshold="0.1"))
    with pytest.raises(BrokenModel, match=r"liver-0\.0\.1\.onnx: expected sha256 \w{64}, found \w{64}"):
        load_networks(models, RUNTIME)


def test_a_lesion_network_behind_another_liver_network_is_refused(models):
    other = with_card(liver_graph((50, 150)), version="0.0.2")
    (models / "liver-0.0.2.onnx").write_bytes(other)
    entry = {"file": "liver-0.0.2.onnx", "sha256": hashlib.sha256(other).hexdigest()}
    edited(models, lambda manifest: manifest["networks"].update(liver=entry))
    with pytest.raises(BrokenModel, match=r"lesion-0\.0\.1\.onnx: .* found liver-0\.0\.2\.onnx"):
        load_networks(models, RUNTIME)


@pytest.fixture
def with_int8(models):
    """The same folder with an 8-bit form of the liver network, told apart by its version."""
    manifest = json.loads((models / "manifest.json").read_text())
    graph = with_card(liver_graph((50, 150)), version="8.8.8", int8_of=manifest["networks"]["liver"]["sha256"])
    (models / "liver-int8.onnx").write_bytes(graph)
    entry = {"file": "liver-int8.onnx", "sha256": hashlib.sha256(graph).hexdigest()}
    edited(models, lambda manifest: manifest["networks"]["liver"].update(int8=entry))
    return models


def test_a_cpu_runs_the_8_bit_form_unless_told_otherwise(with_int8, monkeypatch):
    monkeypatch.setattr(session, "_adds_in_32_bits", lambda: True)
    assert load_networks(with_int8, RUNTIME).liver.card.version == "8.8.8"
    exact = Runtime(threads=1, precision="float32")
    assert load_networks(with_int8, exact).liver.card.version == "0.0.1"
    monkeypatch.setattr(session, "_adds_in_32_bits", lambda: False)
    assert load_networks(with_int8, RUNTIME).liver.card.version == "0.0.1"


def test_a_cpu_that_would_overflow_is_known_by_its_flags(tmp_path, monkeypatch):
    monkeypatch.setattr(session.platform, "machine", lambda: "x86_64")
    told = tmp_path / "cpuinfo"
    told.write_text("flags : avx512f avx512_vnni")
    assert session._adds_in_32_bits(told)
    told.write_text("flags : avx2 avx512f")
    assert not session._adds_in_32_bits(told)
    monkeypatch.setattr(session.platform, "machine", lambda: "aarch64")
    assert session._adds_in_32_bits(told)


def test_an_8_bit_form_of_another_network_is_refused(with_int8, monkeypatch):
    monkeypatch.setattr(session, "_adds_in_32_bits", lambda: True)
    other = with_card(liver_graph((50, 150)), version="8.8.8", int8_of="0" * 64)
    (with_int8 / "liver-int8.onnx").write_bytes(other)
    entry = {"file": "liver-int8.onnx", "sha256": hashlib.sha256(other).hexdigest()}
    edited(with_int8, lambda manifest: manifest["networks"]["liver"].update(int8=entry))
    with pytest.raises(BrokenModel, match=r"liver-int8\.onnx: expected an 8-bit form of liver-0\.0\.1\.onnx"):
        load_networks(with_int8, RUNTIME)


def test_networks_listed_under_each_others_task_are_refused(models):
    def swap(manifest):
        networks = manifest["networks"]
        networks["liver"], networks["lesion"] = networks["lesion"], networks["liver"]

    edited(models, swap)
    with pytest.raises(BrokenModel, match="task liver, found lesion"):
        load_networks(models, RUNTIME)


@pytest.mark.parametrize("file", ["../liver-0.0.1.onnx", "/etc/passwd", "a/b.onnx", "..onnx", "", "x.onnx\n"])
def test_a_manifest_names_only_files_beside_it(models, file):
    edited(models, lambda manifest: manifest["networks"]["liver"].update(file=file))
    with pytest.raises(BrokenModel, match=r"networks\.liver\.file"):
        load_networks(models, RUNTIME)


def test_a_listed_file_that_is_missing_is_named(models):
    (models / "crf-0.0.1.onnx").unlink()
    with pytest.raises(BrokenModel, match=r"crf-0\.0\.1\.onnx: expected the crf network .* No such file"):
        load_networks(models, RUNTIME)


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest.update(contract="hepaseg/2"),
        lambda manifest: manifest["networks"].pop("lesion"),
        lambda manifest: manifest["networks"].update(extra={}),
        lambda manifest: manifest["networks"]["liver"].update(sha256="abc"),
        lambda manifest: manifest.pop("networks"),
    ],
)
def test_an_incomplete_manifest_is_refused(models, edit):
    edited(models, edit)
    with pytest.raises(BrokenModel, match=r"manifest\.json: expected a manifest"):
        load_networks(models, RUNTIME)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_manifest_that_is_no_json_object_is_refused(models, content):
    (models / "manifest.json").write_bytes(content)
    with pytest.raises(BrokenModel, match=r"manifest\.json"):
        load_networks(models, RUNTIME)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(BrokenModel, match="No such file"):
        load_networks(tmp_path, RUNTIME)
