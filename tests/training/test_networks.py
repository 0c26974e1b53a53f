"""The Mixed U-Net: its pooling is a mixture in training and its expectation at inference."""

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from torch.nn import functional

from training.export import folded
from training.networks import MixedPooling, MixedUNet

pytestmark = pytest.mark.training


def test_in_training_every_channel_is_pooled_by_maximum_or_by_average_as_a_whole():
    torch.manual_seed(0)
    features = torch.randn(8, 16, 6, 6)
    pooled = MixedPooling().train()(features)
    by_max = (pooled == functional.max_pool2d(features, 2)).flatten(2).all(dim=2)
    by_average = (pooled == functional.avg_pool2d(features, 2)).flatten(2).all(dim=2)
    assert (by_max ^ by_average).all()
    assert 0.35 < by_max.float().mean() < 0.65


def test_at_inference_it_is_the_expectation_of_training():
    torch.manual_seed(1)
    features = torch.randn(1, 4, 4, 4)
    pool = MixedPooling()
    mean = torch.stack([pool.train()(features) for _ in range(4000)]).mean(dim=0)
    assert torch.allclose(pool.eval()(features), mean, atol=0.06)
    assert torch.equal(pool.eval()(features), pool.eval()(features))


@pytest.mark.parametrize(("kind", "pool"), [("max", functional.max_pool2d), ("average", functional.avg_pool2d)])
def test_the_mixture_can_be_turned_off(kind, pool):
    features = torch.randn(2, 3, 8, 8)
    assert torch.equal(MixedPooling(kind).train()(features), pool(features, 2))
    assert torch.equal(MixedPooling(kind).eval()(features), pool(features, 2))


@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_a_logit_for_every_pixel(normalisation):
    network = MixedUNet(3, 4, normalisation=normalisation).eval()
    assert network(torch.zeros(2, 3, 48, 32)).shape == (2, 1, 48, 32)


def test_the_four_levels_of_the_preprint_double_the_width():
    network = MixedUNet(1, 64, normalisation="none")
    widths = [block[0].out_channels for block in (*network.encoders, network.bottleneck)]
    assert widths == [64, 128, 256, 512, 1024]
    assert [block[0].out_channels for block in network.decoders] == [512, 256, 128, 64]


def test_folding_the_normalisation_changes_no_logit():
    torch.manual_seed(2)
    network = MixedUNet(1, 4).train()
    for _ in range(3):
        network(torch.randn(4, 1, 32, 32) * 3 + 1)
    image = torch.randn(2, 1, 32, 32)
    expected = network.eval()(image)
    assert torch.allclose(folded(network)(image), expected, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
