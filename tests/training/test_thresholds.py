"""Which thresholds suit lesions best, on probabilities that were made up: which marks are false is known."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training import validation
from training.loop import build
from training.packs import Entry, Pack
from training.recipes import smoke

pytestmark = pytest.mark.training


def scan(lesion, doubt):
    """Probability, as HU in per cent, and labels of six slices: a lesion that is sure in its middle, and a mark."""
    percent, labels = np.zeros((6, 64, 64)), np.ones((6, 64, 64), np.uint8)
    percent[1:5, 10:20, 10:20], percent[2, 14, 14] = lesion, 95
    labels[1:5, 10:20, 10:20] = 2
    percent[2:4, 40:50, 40:50] = doubt
    return percent, labels


@pytest.fixture
def pack():
    """Two patients, the second with two scans: one of a weak mark, one of a stronger one."""
    made = [scan(65, 75), scan(55, 75), scan(65, 85)]
    names = ["a", "b1", "b2"]
    entries = tuple(Entry(n, n[0], "lits", True, (1.0, 1.0)) for n in names for _ in range(6))
    percent, labels = (np.concatenate(each) for each in zip(*made, strict=True))
    return Pack.of(percent[:, None].astype(np.int16), labels, entries)


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(validation, "probabilities", lambda _n, percent, _l, _r: percent[:, 0] / 100)
    return build(smoke("lesion"))[1]


def test_a_low_threshold_keeps_the_lesion_whole_and_a_high_peak_leaves_out_the_mark(pack, network):
    threshold, peak = validation.best_thresholds(network, pack, smoke("lesion"))
    assert threshold <= 0.55
    assert 0.85 < peak <= 0.95
