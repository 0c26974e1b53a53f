"""The curves of a training, for a spreadsheet, for TensorBoard and for the eye."""

import csv
import io
import math
import sys
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.curves import Curves
from training.loop import fit
from training.recipes import smoke
from training.validation import watcher

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def rows(folder):
    with (folder / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def events(folder, name):
    board = EventAccumulator(str(folder))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars(name)]


def test_a_training_leaves_its_curves_as_table_as_events_and_as_picture(liver_pack, tmp_path):
    recipe = replace(smoke(), steps=6, checkpoint_steps=2)
    fit(recipe, liver_pack, tmp_path, watch=watcher(liver_pack, recipe, 4))
    table = rows(tmp_path)
    assert [int(row["step"]) for row in table] == [2, 4, 6]
    for name in ("loss", "dice"):
        assert events(tmp_path, name) == [(int(row["step"]), pytest.approx(float(row[name]))) for row in table]
    assert all(0 < float(row["dice"]) < 1 for row in table)
    picture = Image.open(tmp_path / "curve.png").convert("RGB")
    assert {(31, 119, 180), (44, 160, 44)} <= {colour for _, colour in picture.getcolors(1 << 20)}


def test_steps_that_a_kill_undid_are_drawn_once(tmp_path):
    points = []
    with Curves(tmp_path, points, visible=True) as drawing:
        drawing.add(2, [1.0], 0.1, None)
        drawing.add(4, [9.0], 0.1, None)
    del points[1]  # the checkpoint of step 4 was never written
    with Curves(tmp_path, points, visible=True) as drawing:
        drawing.add(4, [0.5, 0.75], 0.1, None)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [("2", "1.0"), ("4", "0.625")]
    assert events(tmp_path, "loss") == [(2, 1.0), (4, 0.625)]
    assert all(math.isnan(float(row["dice"])) for row in rows(tmp_path))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(tmp_path, monkeypatch, terminal):
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(Curves(tmp_path, [], visible=True).steps(3, 6)) == [3, 4, 5]
    assert ("6/6" in screen.getvalue()) == terminal
    if not terminal:
        assert not screen.getvalue()
