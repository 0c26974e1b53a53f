"""How much a pixel counts: small lesions as much as large ones, and lesions more than the liver around them."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.augmentation import NOTHING
from training.packs import Entry, Pack
from training.recipes import default
from training.sampling import RIM_PIXELS, drawn, lesion_weights, slice_chances

pytestmark = pytest.mark.training


@pytest.fixture
def labels():
    """Squares of 6, 20 and 60 pixels in a liver that fills the slice."""
    labels = np.ones((1, 256, 256), np.uint8)
    for at, side in ((10, 6), (40, 20), (120, 60)):
        labels[0, at : at + side, at : at + side] = 2
    return labels


@pytest.fixture
def pack(labels):
    hounsfield = np.full((1, 1, 256, 256), 100, np.int16)
    hounsfield[0, 0][labels[0] == 2] = 60
    return Pack.of(hounsfield, labels, (Entry("a", "a", "lits", True, (1.0, 1.0)),))


def test_a_small_lesion_counts_more_than_a_large_one(labels):
    weight = lesion_weights(torch.from_numpy(labels), torch.tensor([1.0]), 4.0)[0]
    small, medium, large = weight[12, 12], weight[45, 45], weight[150, 150]
    assert float(small) == 4.0
    assert float(medium) == pytest.approx(30.0 / (2.0 * (400 / np.pi) ** 0.5))
    assert float(large) == 1.0
    assert torch.all(weight[torch.from_numpy(labels[0] != 2)] == 1.0)


def test_the_size_is_that_in_millimetres(labels):
    coarse = lesion_weights(torch.from_numpy(labels), torch.tensor([5.0]), 4.0)[0]
    assert float(coarse[12, 12]) == 1.0


@pytest.mark.parametrize(("task", "expected"), [("liver", {1: 3.0, 2: 3.0}), ("lesion", {1: 3.0, 2: 1.0})])
def test_the_liver_network_may_leave_out_no_lesion_and_the_lesion_network_no_small_one(pack, task, expected):
    recipe = replace(default(task), augmentation=NOTHING, batch=1, lesion_weight=3.0)
    torch.manual_seed(0)
    batch = drawn(pack, slice_chances(pack, recipe), recipe)
    small, large = batch["weight"][0, 12, 12], batch["weight"][0, 150, 150]
    assert (float(small), float(large)) == (expected[1], expected[2])
    assert float(batch["weight"][0, 200, 30]) == 1.0


def test_what_lies_against_the_liver_counts_more_but_not_where_the_label_may_be_off():
    labels = np.zeros((1, 256, 256), np.uint8)
    labels[0, 100:150, 100:150] = 1
    hounsfield = np.full((1, 1, 256, 256), 100, np.int16)
    pack = Pack.of(hounsfield, labels, (Entry("a", "a", "lits", True, (1.0, 1.0)),))
    recipe = replace(default("liver"), augmentation=NOTHING, batch=1, rim_weight=5.0)
    weight = drawn(pack, slice_chances(pack, recipe), recipe)["weight"][0]
    inner, outer = RIM_PIXELS
    assert weight[125, 150 : 150 + inner].tolist() == [1.0] * inner
    assert weight[125, 150 + inner : 150 + outer].tolist() == [5.0] * (outer - inner)
    assert weight[125, 150 + outer :].tolist() == [1.0] * (106 - outer)
    assert torch.all(weight[100:150, 100:150] == 1.0)
