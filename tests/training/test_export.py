"""An exported file gives what PyTorch gives, at any size and batch, and says all about itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from app.inference.network import Network, Runtime
from training.export import CardText, LiverGraph, NotExported, card_of, check_parity, export, graph_bytes, recarded
from training.loop import build, fit
from training.manifest import register, sha256_of
from training.packs import read_packs
from training.recipes import default
from training.validation import typical

pytestmark = [pytest.mark.training, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]


def small(task):
    return replace(default(task), size=64, width=4, batch=4, steps=12, checkpoint_steps=12, precision="32-true")


def text_for(task):
    trained_with = "0" * 64 if task == "lesion" else ""
    return CardText(version="1.2.3", threshold=0.5, trained_on="one phantom", trained_with=trained_with)


@pytest.fixture(scope="module")
def exported(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for task in ("liver", "lesion"):
        recipe = small(task)
        checkpoint = fit(recipe, read_packs(cache, task), folder / task)
        images = typical(read_packs(cache, task), recipe, 8)
        export(recipe, checkpoint, text_for(task), folder / "models", images)
    return folder / "models"


def network(exported, task, **runtime):
    path = exported / f"{task}-1.2.3.onnx"
    return Network(path.read_bytes(), sha256_of(path), path.name, task, Runtime(threads=1, **runtime))


def scan(shape=(7, 71, 93)):
    random = np.random.default_rng(0)
    hounsfield = random.normal(60, 60, shape).astype(np.int16)
    liver = np.zeros(shape, np.bool_)
    liver[:, 20:60, 20:70] = True
    return hounsfield, liver


def test_the_service_takes_the_files_and_reads_their_cards(exported):
    card = network(exported, "lesion").card
    assert (card.threshold, card.roi_margin_mm, card.version) == (0.5, 10.0, "1.2.3")
    assert network(exported, "liver").card.task == "liver"


def test_a_card_says_how_far_apart_the_slices_may_lie_that_are_looked_at(exported):
    assert network(exported, "liver").card.step_mm == small("liver").step_mm > 0
    assert card_of(replace(small("liver"), step_mm=0.0), text_for("liver"))["step_mm"] == ""


@pytest.mark.parametrize("task", ["liver", "lesion"])
def test_the_size_of_the_batch_does_not_change_the_result(exported, task):
    hounsfield, liver = scan()
    inputs = (hounsfield,) if task == "liver" else (hounsfield, liver, 2.5)
    one, many = (network(exported, task, batch=batch).run(*inputs) for batch in (1, 5))
    assert np.abs(one - many).max() <= 1e-6
    assert one.std() > 0


@pytest.mark.parametrize("task", ["liver", "lesion"])
def test_the_8_bit_form_says_nearly_what_the_network_says(exported, task):
    hounsfield, liver = scan()
    inputs = (hounsfield,) if task == "liver" else (hounsfield, liver, 2.5)
    exact = network(exported, task).run(*inputs)
    int8 = Network((exported / f"{task}-1.2.3-int8.onnx").read_bytes(), "0" * 64, "int8", task, Runtime(threads=1))
    assert int8.card.int8_of == sha256_of(exported / f"{task}-1.2.3.onnx")
    difference = np.abs(int8.run(*inputs) - exact)
    assert difference.mean() < 0.1 * exact.std()
    assert np.abs(int8.field(*inputs).within((slice(None),) * 3) - int8.run(*inputs)).max() < 1e-4


def test_in_8_bits_the_size_of_the_batch_does_not_change_the_result(exported):
    hounsfield, _ = scan()
    file = (exported / "liver-1.2.3-int8.onnx").read_bytes()
    one, many = (Network(file, "0" * 64, "int8", "liver", Runtime(batch=n)).run(hounsfield) for n in (1, 5))
    assert np.array_equal(one, many)


def test_outside_the_liver_there_is_no_lesion(exported):
    hounsfield, liver = scan()
    assert not network(exported, "lesion").run(hounsfield, liver, 2.5)[~liver].any()


def test_the_manifest_names_both_files_and_keeps_the_entry_of_the_crf(exported):
    (exported / "crf-0.1.0.onnx").write_bytes(b"x")
    register(exported, "crf", "crf-0.1.0.onnx")
    register(exported, "liver", "liver-1.2.3.onnx")
    manifest = json.loads((exported / "manifest.json").read_text())
    assert set(manifest["networks"]) == {"liver", "lesion", "crf"}
    for entry in manifest["networks"].values():
        assert entry["sha256"] == sha256_of(exported / entry["file"])


def test_a_new_card_leaves_the_weights_alone(exported):
    hounsfield, _ = scan()
    before = network(exported, "liver").run(hounsfield)
    recarded(exported, "liver", {"metrics": json.dumps({"dice": 0.5})})
    changed = network(exported, "liver")
    assert changed.card.metrics == {"dice": 0.5}
    assert np.array_equal(changed.run(hounsfield), before)


def test_a_network_in_training_mode_is_refused():
    prepare, bare = build(small("liver"))
    with pytest.raises(NotExported, match="training mode"):
        graph_bytes(LiverGraph(prepare, bare).train(), small("liver"))


def test_a_graph_that_disagrees_with_its_network_is_refused(exported):
    prepare, bare = build(small("liver"))
    model = onnx.load(exported / "liver-1.2.3.onnx")
    with pytest.raises(NotExported, match="differ"):
        check_parity(model, LiverGraph(prepare, bare).eval(), "liver")


@pytest.mark.parametrize("gap", ["trained_with", "trained_on", "licence", "intended_use", "version"])
def test_a_card_with_gaps_is_refused_before_anything_is_written(tmp_path, gap):
    with pytest.raises(NotExported, match=f"says nothing about {gap}"):
        export(small("lesion"), tmp_path / "last.ckpt", replace(text_for("lesion"), **{gap: ""}), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_file_does_not_say_on_which_machine_it_was_made(exported):
    here = str(Path(export.__code__.co_filename).parents[1]).encode()
    files = sorted(exported.glob("l*.onnx"))
    assert len(files) >= 2
    for path in files:
        assert here not in path.read_bytes()
