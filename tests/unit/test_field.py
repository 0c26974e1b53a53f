"""A probability that is held on a small grid decides every voxel as the large one would."""

import numpy as np
import pytest

from app.inference.between import Between
from app.inference.field import Grown, Growth, Whole


def triangles(inputs, outputs):
    """Linear interpolation between pixel centres, as shares (outputs, inputs)."""
    away = np.abs(np.arange(inputs) + 0.5 - (np.arange(outputs)[:, None] + 0.5) * inputs / outputs)
    shares = np.clip(1 - away / max(1, inputs / outputs), 0, None)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def blobs(slices, working, seed=0):
    """Logits like a network's: negative, with some islands, one of them of a single pixel, one at the edge."""
    random = np.random.default_rng(seed)
    logit = random.normal(-6, 1, (slices, *working)).astype(np.float32)
    for k in range(1, slices):
        h, w = random.integers(2, np.array(working) - 4)
        logit[k, h : h + 4, w : w + 3] = random.normal(3, 2, (4, 3))
    logit[-1, 0, :2] = 5
    logit[1, -1, -1] = 9
    return logit


def both(scan, working, *, inside=None, seen=None):
    logit = blobs(5, working)
    rows, columns = triangles(working[0], scan[0]), triangles(working[1], scan[1])
    exact = 1 / (1 + np.exp(-(rows.astype(np.float64) @ logit @ columns.T.astype(np.float64))))
    seen = np.ones(5, bool) if seen is None else seen
    exact[~seen] = 0
    if inside is not None:
        exact *= inside
    return Grown(logit, Between.of(5, range(5), seen), Growth(rows, columns), inside), Whole(exact.astype(np.float32))


@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("scan", [(64, 50), (37, 91), (12, 10), (7, 5), (1, 1)])
def test_a_threshold_gives_the_mask_that_all_voxels_would_give(scan, threshold):
    grown, whole = both(scan, (12, 10))
    assert np.array_equal(grown.at_least(threshold), whole.at_least(threshold))


def test_the_values_of_a_box_are_those_of_the_whole():
    grown, whole = both((64, 50), (12, 10))
    for box in (
        (slice(None),) * 3,
        (slice(1, 4), slice(10, 33), slice(7, 50)),
        (slice(2, 3), slice(0, 1), slice(5, 6)),
    ):
        assert np.abs(grown.within(box) - whole.within(box)).max() < 1e-6


def test_slices_that_nobody_ran_and_voxels_outside_the_liver_have_no_probability():
    inside = np.zeros((5, 64, 50), bool)
    inside[:, 20:60, 5:45] = True
    seen = np.array([True, False, True, True, False])
    grown, whole = both((64, 50), (12, 10), inside=inside, seen=seen)
    assert whole.at_least(0.5).any()
    assert np.array_equal(grown.at_least(0.5), whole.at_least(0.5))
    box = (slice(1, 5), slice(15, 40), slice(0, 30))
    assert np.abs(grown.within(box) - whole.within(box)).max() < 1e-6


def test_a_network_without_doubt_gives_numbers():
    logit = np.full((1, 4, 4), -300, np.float32)
    logit[0, 2, 2] = 300
    grown = Grown(logit, Between.of(1, [0]), Growth(triangles(4, 8), triangles(4, 8)))
    probability = grown.within((slice(None),) * 3)
    assert np.isfinite(probability).all()
    assert (probability.min(), probability.max()) == (0, 1)
