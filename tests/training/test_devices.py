"""Several processes share a batch: together they take the step that one would take with the mean of their gradients."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.loop import Hardware, build, fit, loss_of, optimiser_of, rate_at, seed_at
from training.networks import channels_last
from training.packs import read_packs
from training.recipes import smoke
from training.sampling import drawn, slice_chances

pytestmark = [pytest.mark.training, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

RECIPE = replace(smoke(), steps=3, checkpoint_steps=3)


def by_hand(pack):
    """Weights after the steps of two processes, computed in one; buffers are those of the first."""
    torch.manual_seed(RECIPE.seed)
    prepare, network = build(RECIPE)
    optimiser = optimiser_of(RECIPE, channels_last(network))
    chances, half = slice_chances(pack, RECIPE), replace(RECIPE, batch=RECIPE.batch // 2)
    for step in range(RECIPE.steps):
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        optimiser.param_groups[0]["lr"] = rate_at(step, RECIPE)
        optimiser.zero_grad()
        for rank in (1, 0):
            for name, value in network.named_buffers():
                value.copy_(buffers[name])
            torch.manual_seed(seed_at(step, RECIPE, rank))
            (loss_of(drawn(pack, chances, half), prepare, network.train(), RECIPE) / 2).backward()
        optimiser.step()
    return network.state_dict()


def test_two_processes_take_the_steps_of_the_mean_gradient(cache, tmp_path):
    arguments = ["-m", "training", "train", "smoke", "--cache", str(cache), "--runs", str(tmp_path), "--steps", "3"]
    arguments += ["--set", "checkpoint_steps=3", "--accelerator", "cpu", "--devices", "2", "--strategy", "ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained:") == 1
    found = torch.load(tmp_path / "smoke-liver" / "last.ckpt", weights_only=True)["network"]
    expected = by_hand(read_packs(cache, "liver"))
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


def test_a_batch_that_cannot_be_shared_is_refused(liver_pack, tmp_path):
    with pytest.raises(ValueError, match="4 cannot be shared by 3"):
        fit(RECIPE, liver_pack, tmp_path, hardware=Hardware(devices=3))
