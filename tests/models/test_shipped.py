"""The files in models/: they are what the manifest says, say what they are, and still find what they found."""

import json
from pathlib import Path

import numpy as np
import pytest

from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.network import Runtime
from training.golden import GOLDEN, SLICE_MM, answers, question
from training.phantom import abdomen

pytestmark = [pytest.mark.models, pytest.mark.slow]

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="module")
def networks():
    return load_networks(MODELS, Runtime(threads=1))


@pytest.fixture(scope="module")
def phantom():
    return abdomen(0, (192, 192, 30), (2.0, 2.0, 6.0))


@pytest.fixture(scope="module")
def slices():
    return question()[0]


@pytest.fixture(scope="module")
def liver():
    return question()[1]


def dice(found, true):
    return 2 * (found & true).sum() / (found.sum() + true.sum())


def test_the_cards_are_complete(networks):
    for network in (networks.liver, networks.lesion, networks.crf):
        assert network.card.version.count(".") == 2
        assert network.card.licence
        assert network.card.intended_use
    for network in (networks.liver, networks.lesion):
        assert network.card.trained_on
        assert network.card.metrics["dice"]["cases"] >= 2
        assert len(network.card.source_commit) >= 7
    liver = networks.liver.card.int8_of or networks.liver.sha256
    assert networks.lesion.card.trained_with == liver


def test_the_readme_is_of_these_files(networks):
    text = (MODELS / "README.md").read_text()
    for network in (networks.liver, networks.lesion, networks.crf):
        assert network.sha256 in text


def test_the_evaluation_reaches_what_is_promised():
    results = json.loads((MODELS / "evaluation.json").read_text())
    assert results["liver_summary"]["mean"] >= 0.93
    assert results["liver_summary"]["worst"] >= 0.80
    left, count = np.sum(list(results["slices_without_liver"].values()), axis=0)
    assert left / count >= 0.9


def test_the_phantom_is_segmented(networks, phantom):
    found = Cascade(networks, Runtime(threads=1)).segment(phantom.volume, lambda _stage, _fraction: None)
    assert dice(found.liver, phantom.truth.liver) > 0.93


@pytest.mark.parametrize("batch", [4, 16])
def test_what_a_gpu_does_with_its_own_memory_changes_no_label(monkeypatch, phantom, batch):
    # with that of the CPU: no GPU is needed to see batches of one size cut from stacks that were uploaded once
    runtime = Runtime(threads=1, batch=batch)
    cascade = Cascade(load_networks(MODELS, runtime), runtime)
    expected = cascade.segment(phantom.volume, lambda _stage, _fraction: None)
    monkeypatch.setattr(Runtime, "device", "cpu")
    found = cascade.segment(phantom.volume, lambda _stage, _fraction: None)
    assert np.array_equal(found.labels, expected.labels)
    assert found.lesions.any()


@pytest.mark.parametrize("task", ["liver", "lesion"])
def test_the_size_of_the_batch_does_not_change_a_probability(slices, liver, task):
    inputs = (slices,) if task == "liver" else (slices, liver, SLICE_MM)
    alone, together = (
        getattr(load_networks(MODELS, Runtime(threads=1, batch=batch)), task).run(*inputs) for batch in (1, len(slices))
    )
    assert np.abs(alone - together).max() <= 1e-6
    assert alone.std() > 0


@pytest.mark.parametrize("clip_hu", [(-160, 240), (0, 255), (-1024, 3071), (-200, 300)])
def test_the_liver_network_cannot_see_how_a_scan_was_clipped(networks, slices, clip_hu):
    assert np.array_equal(
        networks.liver.infer(hounsfield=np.clip(slices, *clip_hu)), networks.liver.infer(hounsfield=slices)
    )


def test_the_networks_give_what_they_gave_when_they_were_exported(networks):
    golden = json.loads((MODELS / GOLDEN).read_text())
    for task, found in answers(networks).items():
        assert golden[task]["version"] == found["version"]
        assert np.allclose(found["probability"], golden[task]["probability"], atol=1e-3)
        assert found["sum"] == pytest.approx(golden[task]["sum"], rel=1e-3)
