"""The liver that a lesion network is shown is not quite the labelled one, in ways that a liver network errs in."""

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.shown import filled, overflowing, shown

pytestmark = pytest.mark.training


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(9)


@pytest.fixture
def liver():
    """Eight square livers."""
    mask = torch.zeros((8, 96, 96), dtype=torch.bool)
    mask[:, 30:60, 30:60] = True
    return mask


def test_what_overflows_the_liver_is_tissue_beside_it(liver):
    hounsfield = torch.full(liver.shape, 40.0)
    hounsfield[:, :, :30] = -200.0
    found = overflowing(liver, hounsfield, chance=1.0)
    assert (found & ~liver).flatten(1).any(dim=1).all()
    assert not (liver & ~found).any()
    assert not (found & ~liver & (hounsfield < -20)).any()


def test_fat_is_taken_in_where_it_is_asked_for(liver):
    hounsfield = torch.full(liver.shape, -100.0)
    assert not (overflowing(liver, hounsfield, -20.0, 1.0) & ~liver).any()
    assert (overflowing(liver, hounsfield, -150.0, 1.0) & ~liver).any()


def test_mistakes_begin_mostly_where_there_is_fluid(liver):
    hounsfield = torch.full(liver.shape, 90.0)
    hounsfield[:, :, 60:] = 15.0  # a gall bladder along the patient's left side of it
    many = 40
    on_fluid = sum(
        int(((overflowing(liver, hounsfield, chance=1.0) & ~liver)[:, :, 60:]).flatten(1).sum(1).gt(20).sum())
        for _ in range(many)
    )
    assert on_fluid > 0.6 * many * len(liver)  # a quarter of the outline


def test_fissures_are_filled_where_there_is_tissue_and_what_is_outside_stays_out(liver):
    liver[:, 30:50, 43:46] = False  # a fissure, narrower than twice the least that is filled
    tissue = torch.ones_like(liver)
    tissue[:, 40:, :] = False
    found = filled(liver, tissue, 1.0)
    assert found[:, 38:40, 43:46].all()
    assert not found[:, 40:50, 43:46].any()
    around = torch.zeros_like(liver)
    around[:, 30:60, 30:60] = True
    assert not (found & ~around).any()
    assert torch.equal(filled(liver, tissue, 0.0), liver)


def test_a_batch_is_drawn_the_same_from_the_same_seed_and_not_all_alike(liver):
    hounsfield = torch.full(liver.shape, 60.0)
    torch.manual_seed(1)
    first = shown(liver, hounsfield)
    torch.manual_seed(1)
    assert torch.equal(first, shown(liver, hounsfield))
    assert len({int(each.sum()) for each in first}) > 4
    assert ((first & liver).flatten(1).sum(1) > 600).all()
