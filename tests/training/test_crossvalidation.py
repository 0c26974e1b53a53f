"""Cross-validation by patient: a fold that was finished is not trained again, and the table says what was found."""

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training import loop
from training.augmentation import PAPER
from training.checkpoint import RunChanged
from training.crossvalidation import as_text, crossvalidate, run_fold
from training.packs import Pack
from training.recipes import smoke
from training.split import DataError

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

RECIPE = replace(smoke(), steps=4, checkpoint_steps=2, folds=2, size=32, width=4, shares=(("lits", 1.0),))


@pytest.fixture(scope="module")
def four_patients(liver_pack):
    """The slices of one phantom said to be of four patients."""
    entries = [replace(e, patient=f"LiTS{n % 4:03d}", source="lits") for n, e in enumerate(liver_pack.entries)]
    return Pack(liver_pack.hounsfield, liver_pack.labels, tuple(entries))


def test_every_patient_is_scored_once_by_a_network_that_did_not_see_him(four_patients, tmp_path):
    table = crossvalidate(RECIPE, four_patients, tmp_path, ["mixed"])
    scored = [patient for fold in table["mixed"] for patient in fold]
    assert sorted(scored) == ["LiTS000", "LiTS001", "LiTS002", "LiTS003"]
    for number, fold in enumerate(table["mixed"]):
        stored = json.loads((tmp_path / "mixed" / f"fold-{number}" / "fold.json").read_text())
        assert stored["dice"] == fold
        assert stored["origin"]["data"]["sources"]["lits"]["patients"] == 2


def test_a_stopped_crossvalidation_goes_on_and_trains_no_fold_twice(four_patients, tmp_path):
    whole = crossvalidate(RECIPE, four_patients, tmp_path / "whole", ["mixed", "max"])
    crossvalidate(RECIPE, four_patients, tmp_path / "parts", ["max"])
    last = tmp_path / "parts" / "max" / "fold-1"
    (last / "fold.json").unlink()  # killed after its training, before its scores
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("last.ckpt")}
    table = crossvalidate(RECIPE, four_patients, tmp_path / "parts", ["mixed", "max"])
    assert table == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert (tmp_path / "parts" / "table.md").read_text() == as_text(whole) + "\n"


def test_scores_of_another_recipe_are_not_taken_for_those_of_this_one(four_patients, tmp_path):
    crossvalidate(RECIPE, four_patients, tmp_path, ["mixed"])
    with pytest.raises(RunChanged, match=r"recipe.batch was 4, is 2"):
        crossvalidate(replace(RECIPE, batch=2), four_patients, tmp_path, ["mixed"])


def test_the_poolings_see_the_same_slices_changed_in_the_same_way(four_patients, tmp_path, monkeypatch):
    """Otherwise their difference, fold by fold, would be that of the draws too: mixed pooling draws numbers itself."""
    seen = []
    drawn = loop.drawn
    monkeypatch.setattr(loop, "drawn", lambda *given: (seen.append(drawn(*given)), seen[-1])[1])
    changed = replace(RECIPE, augmentation=PAPER)
    for pooling in ("mixed", "max"):
        run_fold(replace(changed, pooling=pooling), four_patients, frozenset({"lits-0"}), tmp_path / pooling)
    for one, other in zip(seen[: RECIPE.steps], seen[RECIPE.steps :], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(seen[0]["hounsfield"], seen[1]["hounsfield"])


def test_more_folds_than_patients_are_refused(four_patients, tmp_path):
    with pytest.raises(DataError, match="4 patients cannot be dealt into 5 folds"):
        crossvalidate(replace(RECIPE, folds=5), four_patients, tmp_path, ["mixed"])


def test_the_table_gives_mean_spread_and_difference_fold_by_fold():
    mixed = [{"a": 0.9, "b": 0.7}, {"c": 0.6}]
    largest = [{"a": 0.8, "b": 0.8}, {"c": 0.4}]
    lines = as_text({"mixed": mixed, "max": largest}).splitlines()
    assert lines[2] == f"| mixed | 0.7000 | {statistics.stdev([0.8, 0.6]):.4f} | 0.600 | - | 2 | 3 |"
    spread = np.std([0.0, -0.2], ddof=1)
    assert lines[3] == f"| max | 0.6000 | {statistics.stdev([0.8, 0.4]):.4f} | 0.400 | -0.1000 ± {spread:.4f} | 2 | 3 |"
