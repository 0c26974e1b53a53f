"""The weighted losses are those of MONAI where it has them: without weights, and where a pixel counts or does not."""

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.losses import weighted_cross_entropy, weighted_dice

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def losses():
    from monai import losses

    return losses


@pytest.fixture
def example():
    random = torch.Generator().manual_seed(1)
    logit = torch.randn(3, 40, 50, generator=random)
    truth = (torch.rand(3, 40, 50, generator=random) < 0.3).float()
    counts = (torch.rand(3, 40, 50, generator=random) < 0.6).float()
    return logit, truth, counts


def test_without_weights_both_together_are_monais_dice_and_cross_entropy(losses, example):
    logit, truth, counts = example
    both = losses.DiceCELoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = both(logit[:, None], truth[:, None])
    every = torch.ones_like(counts)
    found = weighted_cross_entropy(logit, truth, every) + weighted_dice(logit, truth, every)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_what_does_not_count_is_masked_as_in_monais_masked_dice(losses, example):
    logit, truth, counts = example
    masked = losses.MaskedDiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = masked(logit.sigmoid()[:, None], truth[:, None], mask=counts[:, None])
    assert float(weighted_dice(logit, truth, counts)) == pytest.approx(float(expected), rel=1e-6)


def test_a_pixel_of_half_weight_counts_half(example):
    """Why these are not MONAI's: its masks are multiplied into both factors, and half would count a quarter."""
    logit, truth, _ = (tensor[:1, :1, :2] for tensor in example)
    weight = torch.tensor([[[1.0, 0.5]]])
    each = torch.nn.functional.binary_cross_entropy_with_logits(logit, truth, reduction="none")[0, 0]
    assert float(weighted_cross_entropy(logit, truth, weight)) == pytest.approx(float(each[0] + 0.5 * each[1]) / 1.5)
    p, t = logit.sigmoid()[0, 0], truth[0, 0]
    shared, total = p[0] * t[0] + 0.5 * p[1] * t[1], p[0] + t[0] + 0.5 * (p[1] + t[1])
    assert float(weighted_dice(logit, truth, weight)) == pytest.approx(float(1 - (2 * shared + 1) / (total + 1)))
