"""Augmentation moves grey values and labels together, and paints lesions only into livers."""

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.augmentation import NOTHING, PAPER, Augmentation, augmented
from training.synthesis import paint_lesions

pytestmark = pytest.mark.training


@pytest.fixture
def slices():
    hounsfield = torch.full((6, 128, 128), -1000.0)
    hounsfield[:, 20:110, 15:115] = 40.0
    labels = torch.zeros((6, 128, 128), dtype=torch.uint8)
    labels[:, 40:90, 25:70] = 1
    hounsfield[labels > 0] = 110.0
    return hounsfield, labels, torch.full((6,), 1.5)


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
    assert torch.allclose(hounsfield[inside], torch.tensor(110.0), atol=0.5)


def test_air_stays_air_under_every_change_of_contrast_and_noise(slices):
    torch.manual_seed(4)
    hounsfield, _, _ = augmented(*slices, Augmentation(arms=0.0, scale=(1, 1), shift=0, rotation_deg=0, elastic=0))
    corner = hounsfield[:, :10, :10]
    assert (corner < -300).all()
    assert torch.isfinite(hounsfield).all()


def test_lesions_are_painted_into_the_liver_and_nowhere_else(slices):
    torch.manual_seed(5)
    hounsfield, labels, painted = paint_lesions(*slices, 1.0)
    liver = slices[1] >= 1
    assert painted.flatten(1).any(dim=1).all()
    assert torch.equal(labels == 2, painted)
    assert not (painted & ~liver).any()
    assert torch.equal(hounsfield[~liver], slices[0][~liver])
    assert (hounsfield[painted] - 110.0).abs().mean() > 8
    assert torch.equal(labels >= 1, liver)
