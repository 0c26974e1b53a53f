"""Augmentation moves grey values and labels together, and paints lesions only into livers."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.augmentation import NOTHING, PAPER, Augmentation, augmented
from training.synthesis import Where, paint_lesions

pytestmark = pytest.mark.training


@pytest.fixture
def slices():
    hounsfield = torch.full((6, 128, 128), -1000.0)
    hounsfield[:, 20:110, 15:115] = 40.0
    labels = torch.zeros((6, 128, 128), dtype=torch.uint8)
    labels[:, 40:90, 25:70] = 1
    hounsfield[labels > 0] = 110.0
    where = Where(torch.full((6,), 1.5), torch.zeros(6, dtype=torch.bool))
    return hounsfield[:, None].repeat(1, 3, 1, 1), labels, where


def test_nothing_changes_nothing(slices):
    hounsfield, labels, painted = augmented(*slices, NOTHING)
    assert torch.allclose(hounsfield, slices[0], atol=1e-2)
    assert torch.equal(labels, slices[1])
    assert not painted.any()


def test_labels_move_with_the_grey_values(slices):
    torch.manual_seed(3)
    hounsfield, labels, _ = augmented(*slices, PAPER)
    inside = (labels == 1) & (torch.nn.functional.max_pool2d((labels == 0).float()[:, None], 5, 1, 2)[:, 0] == 0)
    assert not torch.equal(labels, slices[1])
    assert torch.allclose(hounsfield.transpose(0, 1)[:, inside], torch.tensor(110.0), atol=0.5)


def test_air_stays_air_under_every_change_of_contrast_and_noise(slices):
    torch.manual_seed(4)
    hounsfield, _, _ = augmented(*slices, Augmentation(arms=0.0, scale=(1, 1), shift=0, rotation_deg=0, elastic=0))
    corner = hounsfield[:, :, :10, :10]
    assert (corner < -300).all()
    assert torch.isfinite(hounsfield).all()


def test_lesions_are_painted_into_the_liver_and_nowhere_else(slices):
    torch.manual_seed(5)
    hounsfield, labels, painted = paint_lesions(*slices, 1.0)
    liver = slices[1] >= 1
    assert painted.flatten(1).any(dim=1).all()
    assert torch.equal(labels == 2, painted)
    assert not (painted & ~liver).any()
    assert torch.equal(hounsfield.transpose(0, 1)[:, ~liver], slices[0].transpose(0, 1)[:, ~liver])
    assert (hounsfield[:, 0][painted] - 110.0).abs().mean() > 8
    assert torch.equal(labels >= 1, liver)


def test_a_painted_lesion_is_as_tall_as_it_is_wide():
    torch.manual_seed(6)
    count = 64
    labels = torch.ones((count, 96, 96), dtype=torch.uint8)
    where = Where(torch.full((count,), 1.0), torch.zeros(count, dtype=torch.bool))
    hounsfield, _, _ = paint_lesions(torch.zeros((count, 3, 96, 96)), labels, where, 1.0)
    changed = (hounsfield.abs() > 10.0).sum(dim=(2, 3)).to(torch.float32)
    small = changed[:, 0] < 120  # a few millimetres across: it cannot reach both neighbours, 5 mm away
    assert small.sum() > 5
    assert (changed[small, 1:].amin(dim=1) < 0.5 * changed[small, 0]).float().mean() > 0.8
    assert (changed[~small, 1:] > 0).float().mean() > 0.8


def test_copied_neighbours_are_moved_and_true_ones_are_not(slices):
    torch.manual_seed(7)
    hounsfield, labels, where = slices
    twin = Where(where.pixel_mm, torch.tensor([True, False] * 3))
    changed, _, _ = augmented(hounsfield, labels, twin, NOTHING)
    same = (changed[:, 0] - changed[:, 1]).abs().amax(dim=(1, 2)) < 1e-2
    assert same.tolist() == [False, True] * 3


def test_without_contrast_agent_tissues_look_alike_and_air_stays(slices):
    torch.manual_seed(8)
    how = replace(NOTHING, gain=1e-9, unenhanced=1.0)
    changed, labels, _ = augmented(*slices, how)
    liver, muscle = changed[:, 0][labels == 1], changed[:, 0][(labels == 0) & (changed[:, 0] > 0)]
    assert liver.mean() - muscle.mean() < 0.8 * (110.0 - 40.0)
    assert (changed[:, :, :10, :10] < -900).all()
