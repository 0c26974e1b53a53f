"""Fitting: it learns, it repeats itself bit for bit, and a kill costs nothing."""

import csv
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.loop import build, fit, rate_at
from training.packs import read_packs
from training.recipes import default, paper, smoke
from training.validation import dice_per_patient, overlaps

pytestmark = [pytest.mark.training, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]


def weights(checkpoint):
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["average"]


def losses(folder):
    with (folder / "curve.csv").open() as file:
        return [row["loss"] for row in csv.DictReader(file)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_smoke_recipe_overfits_one_phantom(liver_pack, tmp_path):
    recipe = smoke()
    _, network = build(recipe)
    network.load_state_dict(weights(fit(recipe, liver_pack, tmp_path)))
    scores = dice_per_patient(overlaps(network, liver_pack, recipe))
    assert scores["phantom-1"] > 0.85


def test_the_same_seed_gives_the_same_losses_bit_for_bit_and_another_seed_others(liver_pack, tmp_path):
    recipe = replace(smoke(), steps=8, checkpoint_steps=2)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(replace(recipe, seed=seed), liver_pack, tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


@pytest.mark.parametrize("task", ["liver", "lesion"])
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(cache, tmp_path, task):
    pack = read_packs(cache, task)
    recipe = replace(default(task), size=32, width=4, batch=3, steps=9, checkpoint_steps=3, precision="32-true")
    whole = fit(recipe, pack, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(step, network):
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        fit(recipe, pack, tmp_path / "stopped", watch=kill)
    resumed = fit(recipe, pack, tmp_path / "stopped")
    assert same(weights(whole), weights(resumed))
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


def test_the_paper_recipe_is_the_preprint():
    liver, lesion = paper("liver"), paper("lesion")
    assert (liver.size, liver.batch, liver.learning_rate, liver.dropout) == (96, 32, 1e-5, 0.5)
    assert (liver.loss, liver.pooling, liver.folds, liver.cosine) == ("cross entropy", "mixed", 10, False)
    assert liver.window_hu == (-100.0, 300.0)
    assert liver.steps == 20 * 30_600 // 32
    assert lesion.steps == 20 * 35_550 // 32
    assert {rate_at(step, liver) for step in (0, 1000, liver.steps - 1)} == {1e-5}


def test_the_default_rate_warms_up_and_ends_near_zero():
    recipe = default()
    rates = [rate_at(step, recipe) for step in range(recipe.steps)]
    assert rates[0] < rates[40] < recipe.learning_rate
    assert rates[-1] < 1e-3 * recipe.learning_rate
