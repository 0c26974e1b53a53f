"""A hospital's own scans, from a folder of pairs to a service that runs the networks: the way of docs/training.md."""

import json
import os
import re
import shutil

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from click.testing import CliRunner
from PIL import Image

from app import cli
from app.imaging.nifti import write_labels, write_volume
from app.inference.manifest import load_networks
from app.inference.network import Runtime
from training import __main__ as training
from training import evaluate
from training.judge import training_of
from training.phantom import abdomen

pytestmark = [pytest.mark.training, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

PATIENTS = ("Huber", "Maier", "Novak", "Rossi", "Schmid", "Weiss")
SMALL = ("--set", "size=64", "width=8", "batch=4", "precision=32-true", "checkpoint_steps=30", "learning_rate=0.005")


def write_pairs(folder):
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for seed, patient in enumerate(PATIENTS):
        phantom = abdomen(seed, (72, 72, 14), (5.5, 5.5, 14.0))
        write_volume(folder / "images" / f"{patient}_portal.nii.gz", phantom.volume)
        write_labels(folder / "labels" / f"{patient}_portal.nii.gz", phantom.truth.labels, phantom.truth.geometry)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Six pairs, taken through prepare, train, export and evaluate; files lie in data, pack, runs and models."""
    place = tmp_path_factory.mktemp("hospital")
    write_pairs(place / "data" / "own")
    folders = [f"--{option}={place / name}" for option, name in
               (("data", "data"), ("cache", "pack"), ("runs", "runs"), ("models", "models"))]  # fmt: skip
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluate, "SCORED_PHANTOMS", ())
    for task in ("liver", "lesion"):
        training.main(["prepare", "default", "--task", task, "--phantoms", "0", *folders])
        training.main(["train", "default", "--task", task, "--steps", "90", *folders, *SMALL])
        training.main(["export", "default", "--task", task, "--version", "1.0.0", "--licence", "ours", *folders])
    shutil.copytree(place / "models", place / "models-before")
    training.main(["evaluate", "default", "--beside", str(place / "models-before"), *folders])
    yield place
    patch.undo()


@pytest.fixture(scope="module")
def results(place):
    return json.loads((place / "models" / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def readme(place):
    return (place / "models" / "README.md").read_text()


def test_a_patient_who_is_kept_out_is_scored_and_nobody_else(place, results):
    networks = load_networks(place / "models", Runtime(threads=1))
    learnt = training_of(networks.liver.card)["data"]["sources"]["pairs"]["patients"]
    assert learnt + results["kept_out"]["pairs"] == len(PATIENTS)
    assert len(results["volumes"]) == results["kept_out"]["pairs"] >= 1
    assert results["liver_summary"]["mean"] > 0.6


def test_what_is_published_names_no_patient(place, readme):
    published = [path for path in (place / "models").iterdir() if path.name != "golden.json"]
    assert len(published) == 8  # three networks, two of them in 8-bit integers too, manifest, scores, README
    for path in published:
        for patient in PATIENTS:
            assert patient.encode() not in path.read_bytes()
    assert "own scan 1 (whole volume)" in readme


def test_the_card_says_what_was_trained_on_and_how_long_without_anybody_typing_it(place, readme):
    networks = load_networks(place / "models", Runtime(threads=1))
    for network in (networks.liver, networks.lesion):
        learnt = training_of(network.card)
        count = learnt["data"]["sources"]["pairs"]
        assert f"{count['slices']} slices of {count['patients']} patients (own scans)" in network.card.trained_on
        assert "90 of the " in network.card.trained_on
        assert "width 8" in network.card.trained_on
        assert network.card.trained_on in readme
        assert network.card.licence == "ours"
    assert "CC BY-SA" not in readme


def test_a_second_folder_of_networks_is_scored_on_the_same_cases(results, readme):
    for part in ("volumes", "painted", "slices_without_liver", "liver_summary", "lesion_summary"):
        assert results["beside"][part] == results[part]
    assert readme.count("default 1.0.0: recall") == 2
    for size in ("under 10 mm", "10 to 20 mm", "over 20 mm", "all sizes"):
        assert f"| {size} |" in readme


def test_the_worst_cases_are_drawn_with_both_outlines_outside_of_what_is_shipped(place):
    sheets = sorted((place / "runs" / "worst" / "liver").glob("*.png"))
    assert sheets
    assert not list((place / "models").glob("*.png"))
    colours = Image.open(sheets[0]).convert("RGB").getcolors(1 << 20)
    green = sum(count for count, (r, g, b) in colours if g > 150 and r < 90 and b < 90)
    red = sum(count for count, (r, g, b) in colours if r > 200 and g < 120 and b < 120)
    assert green > 50
    assert red > 50


def test_the_command_of_the_service_runs_the_new_networks(place, results, tmp_path):
    kept_out = sorted(place.glob("runs/worst/liver/*own_scan_1_*"))[0].name
    name = next(patient for patient in PATIENTS if patient in kept_out) + "_portal.nii.gz"
    own = place / "data" / "own"
    arguments = [
        "segment",
        str(own / "images" / name),
        "-o",
        str(tmp_path),
        "--reference",
        str(own / "labels" / name),
        "-q",
    ]
    done = CliRunner().invoke(cli.main, arguments, env={**os.environ, "HEPASEG_MODELS_DIR": str(place / "models")})
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["models"]["liver"]["version"] == "1.0.0"
    assert report["agreement"]["liver"]["dice"] == pytest.approx(results["volumes"]["own scan 1"]["liver"], abs=1e-9)


def copied(place, patients, folder):
    """Some of the pairs in a folder of their own."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
        for patient in patients:
            shutil.copy(place / "data" / "own" / name / f"{patient}_portal.nii.gz", folder / name)


@pytest.fixture(scope="module")
def known(place):
    """The patients who were trained on."""
    kept_out = [sheet.name for sheet in place.glob("runs/worst/liver/*own_scan_*")]
    return [patient for patient in PATIENTS if not any(patient in name for name in kept_out)]


def test_a_network_that_knows_a_patient_is_not_scored_on_him(place, known, tmp_path):
    """The split changes when scans are added or taken away; a network from before must not be scored by the new one."""
    copied(place, known[:2], tmp_path)
    runs = load_networks(place / "models", Runtime()).liver.name  # the 8-bit form, where this CPU can run it
    with pytest.raises(SystemExit, match=f"{re.escape(runs)} was trained on this patient"):
        training.main(["evaluate", "default", "--models", str(place / "models"), "--data", str(tmp_path)])


def test_a_single_patient_is_not_enough_to_be_evaluated(place, known, tmp_path):
    copied(place, known[:1], tmp_path)
    with pytest.raises(SystemExit, match="none with liver is kept out"):
        training.main(["evaluate", "default", "--models", str(place / "models"), "--data", str(tmp_path)])


def test_a_lesion_network_is_not_exported_before_the_liver_network_it_works_behind(place, tmp_path):
    arguments = ["export", "default", "--task", "lesion", "--models", str(tmp_path), "--runs", str(place / "runs")]
    with pytest.raises(SystemExit, match=r"export the liver network into .* first"):
        training.main(arguments)


def test_a_run_is_not_gone_on_with_by_another_recipe(place):
    arguments = ["train", "default", "--cache", str(place / "pack"), "--runs", str(place / "runs"), "--steps", "91"]
    with pytest.raises(SystemExit, match=r"recipe.size was 64, is 192"):
        training.main(arguments)
