"""The command line says what is wrong with it, and cards say what was changed by it."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.options import parsed
from training.packs import Entry, Pack
from training.provenance import Origin, as_trained, counted, fingerprint, in_words, lesions_in_words, steps_in_words
from training.recipes import paper

pytestmark = pytest.mark.training


def options(*arguments):
    return parsed(["train", *arguments], ["train"], None)


def test_numbers_of_a_recipe_are_changed_by_name():
    recipe = options(
        "paper", "--task", "lesion", "--steps", "7", "--set", "width=8", "learning_rate=1", "pooling=max"
    ).recipe
    assert recipe == replace(paper("lesion"), steps=7, width=8, learning_rate=1.0, pooling="max")
    assert options("paper", "--set", "window_hu=(-50.0,200.0)").recipe.window_hu == (-50.0, 200.0)
    assert not options("default", "--set", "refine=False").recipe.refine


@pytest.mark.parametrize(
    ("arguments", "what_is_said"),
    [
        (("--set", "widht=8"), "--set widht=8: a recipe has"),
        (("--set", "width=wide"), "expected something like width=64"),
        (("--set", "width=8.5"), "expected something like width=64"),
        (("--set", "name=x"), "--set name=x: a recipe has"),
        (("--set", "size=100"), "size must be a multiple of 16"),
        (("--steps", "0"), "begin at 1"),
        (("--threshold", "0.5", "--peak", "0.9"), "--peak belongs to a lesion network"),
        (("--task", "lesion", "--peak", "0.9"), "beside --threshold"),
        (("--pooling", "mixed,median"), "--pooling median: expected mixed, max, average"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(arguments, what_is_said, capsys):
    with pytest.raises(SystemExit):
        options("paper", *arguments)
    assert what_is_said in capsys.readouterr().err


def pack(slices):
    """A pack of (patient, source, pixels of lesion) for each slice."""
    labels = np.ones((len(slices), 4, 4), np.uint8)
    for n, (_, _, pixels) in enumerate(slices):
        labels[n].ravel()[:pixels] = 2
    entries = tuple(Entry(patient, patient, source, True, (1.0, 1.0)) for patient, source, _ in slices)
    return Pack.of(np.zeros((len(slices), 1, 4, 4), np.int16), labels, entries)


SLICES = [("LiTS000", "lits", 9), ("LiTS000", "lits", 0), ("LiTS001", "lits", 1), ("LiTS002", "lits", 0)]
SLICES += [("Huber", "pairs", 2), ("phantom-1", "phantom", 5)]


def test_data_are_counted_and_nobody_is_named():
    data = counted(pack(SLICES))
    assert in_words(data) == (
        "4 slices of 3 patients (whole LiTS volumes), 1 slice of 1 patient (own scans), 1 slice of 1 synthetic phantom"
    )
    assert lesions_in_words(data) == (
        "real lesions of 3 patients, one of whom has 75% of the lesion pixels, and otherwise synthetic ones"
    )
    assert lesions_in_words(counted(pack(SLICES[-1:]))) == "no real lesion, only synthetic ones"
    assert "Huber" not in str(data)
    assert fingerprint("Huber") in data["known_patients"]
    assert fingerprint("LiTSidx10002") in data["known_patients"]


def test_data_that_differ_in_one_voxel_are_other_data():
    one, other = pack(SLICES), pack([*SLICES[:-1], ("phantom-1", "phantom", 6)])
    assert Origin.of(paper(), one, 1).changes(Origin.of(paper(), one, 1)) == []
    changes = Origin.of(paper(), other, 1).changes(Origin.of(paper(), one, 1))
    assert any(change.startswith("data.checksum was ") for change in changes)


def test_the_card_says_how_many_of_the_recipes_steps_and_what_was_changed():
    recipe = replace(paper(), steps=1200, width=16)
    first = Origin.of(recipe, pack(SLICES), 1)
    assert steps_in_words(1200, [first]) == "1,200 of the 19,125 steps of paper() with width 16"
    later = replace(first, from_step=600)
    assert steps_in_words(900, [first, later]).endswith("; recipe or data were changed at step 600")
    assert as_trained(paper(), [first]) == recipe
