"""Fat that is no lesion: slender, along the liver, past its lesions, and known for what it is."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.augmentation import NOTHING
from training.clefts import LENGTH_MM, SLENDER, paint_clefts
from training.packs import Entry, Pack
from training.recipes import default
from training.sampling import drawn, slice_chances
from training.synthesis import Where

pytestmark = pytest.mark.training
COUNT, PIXEL_MM, LIVER_HU = 48, 0.8, 100.0


@pytest.fixture
def slices():
    """A liver in soft tissue with a lesion in its middle, seen in three planes."""
    labels = torch.zeros((COUNT, 256, 256), dtype=torch.uint8)
    labels[:, 60:200, 50:210] = 1
    labels[:, 120:130, 120:130] = 2
    hounsfield = torch.where(labels == 1, LIVER_HU, 40.0)[:, None].repeat(1, 3, 1, 1)
    return hounsfield, labels, Where(torch.full((COUNT,), PIXEL_MM), torch.zeros(COUNT, dtype=torch.bool))


def test_clefts_are_darker_than_what_they_are_painted_into_and_leave_lesions_alone(slices):
    torch.manual_seed(1)
    before, labels, where = slices
    after, seen = paint_clefts(before, labels, where, 1.0)
    assert (after <= before + 1e-4).all()
    assert (before - after)[:, 0][seen].min() > 8.0
    assert (before - after)[:, 0][~seen].max() < 45.0  # of two clefts, a tenth each
    assert torch.equal(after.transpose(0, 1)[:, labels == 2], before.transpose(0, 1)[:, labels == 2])
    assert seen.flatten(1).any(dim=1).float().mean() > 0.9


def test_nothing_is_painted_without_the_chance_or_without_a_liver(slices):
    torch.manual_seed(2)
    before, labels, where = slices
    assert torch.equal(paint_clefts(before, labels, where, 0.0)[0], before)
    after, seen = paint_clefts(before, torch.zeros_like(labels), where, 1.0)
    assert torch.equal(after, before)
    assert not seen.any()


def test_most_clefts_lie_at_the_outline(slices):
    torch.manual_seed(3)
    before, labels, where = slices
    _, seen = paint_clefts(before, labels, where, 1.0)
    inner = torch.zeros_like(seen)
    inner[:, 80:180, 70:190] = True
    touching = (seen & ~inner).flatten(1).any(dim=1)
    assert touching.float().mean() > 0.6
    assert (~touching).any()


def test_a_cleft_is_longer_than_wide(slices, monkeypatch):
    torch.manual_seed(4)
    monkeypatch.setattr("training.clefts.ROUNDS", 1)
    monkeypatch.setattr("training.clefts.WIDTH_MM", (10.0, 40.0))  # so that all want to be wide
    before, labels, where = slices
    _, seen = paint_clefts(before, torch.ones_like(labels), where, 1.0)
    ratios = []  # of clefts that the slice does not cut off
    for mask in seen:
        at = mask.nonzero().to(torch.float32) * PIXEL_MM
        inside = len(at) > 20 and at.min() > PIXEL_MM and at.max() < 254 * PIXEL_MM
        if inside:
            across, along = torch.linalg.eigvalsh(torch.cov(at.T)).sqrt().tolist()
            ratios.append(along / across)
            assert 4.0 * along < 1.2 * LENGTH_MM[1]
    assert len(ratios) > 10
    assert min(ratios) > 0.5 * SLENDER
    assert np.median(ratios) > 0.8 * SLENDER


def test_where_lesions_may_hide_unlabelled_a_cleft_counts_in_full():
    labels = np.zeros((1, 256, 256), np.uint8)
    labels[0, 60:200, 50:210] = 1
    pack = Pack.of(
        np.full((1, 3, 256, 256), 100, np.int16), labels, (Entry("a", "a", "spread", False, (PIXEL_MM, PIXEL_MM)),)
    )
    recipe = replace(default("lesion"), augmentation=replace(NOTHING, clefts=1.0), batch=1)
    torch.manual_seed(5)
    batch = drawn(pack, slice_chances(pack, recipe), recipe)
    weight, dark = batch["weight"][0], batch["hounsfield"][0, 0] < 50.0
    liver = torch.from_numpy(labels[0] == 1)
    assert (dark & liver).any()
    assert (weight[dark & liver] == 1.0).all()
    assert (weight[liver] == recipe.unlabelled_weight).any()
    assert (batch["labels"] != 2).all()
