"""A training that is killed at any moment with SIGKILL and started again ends with the weights of one that was not."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

pytestmark = [pytest.mark.training, pytest.mark.timeout(1800)]

#: The default recipe with all that is random in it, small.
SMALL = ("--task", "lesion", "--steps", "16", "--threads", "1", "--set", "size=32", "width=4", "batch=3")
SMALL += ("precision=32-true", "checkpoint_steps=2")


def run(program, cache, runs):
    arguments = ["train", "default", "--cache", str(cache), "--runs", str(runs), *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def losses(folder):
    with (folder / "curve.csv").open() as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


def test_a_training_killed_again_and_again_ends_bit_for_bit_as_one_that_was_not(cache, tmp_path):
    run(["-m", "training"], cache, tmp_path / "whole")
    killed = tmp_path / "killed" / "default-lesion"
    dying = Path(__file__).with_name("dying_training.py")
    ends = json.loads(run([str(dying), str(killed)], cache, tmp_path / "killed").splitlines()[-1])
    assert ends.count(signal.SIGKILL) >= 8
    assert ends[-1] == 0
    whole, resumed = (
        torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path / "whole/default-lesion", killed)
    )
    for part in ("network", "average", "optimiser", "step"):
        assert same(whole[part], resumed[part]), part
    assert losses(tmp_path / "whole/default-lesion") == losses(killed)
    assert len(losses(killed)) == 8
