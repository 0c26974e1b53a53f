"""The preprint row by row: each test is named after the row of the protocol that it shows.

data            this file, and test_datasets.py for every layout
windowing       this file (NumPy oracle)
size            this file
equalisation    this file and test_preprocessing.py (NumPy oracle)
augmentation    this file: the four, each by itself
network         this file and test_networks.py
loss            this file
optimiser       this file, against Adam by the book
validation      this file: ten folds by patient; test_crossvalidation.py: resumed, mean and spread
cascade         this file, with exported paper networks; tests/component/test_cascade.py
3-D CRF         tests/unit/test_crf.py, against the sum over all pairs of voxels
score           this file
cost            docs/benchmarks.md: a measurement, not a test
"""

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from torch import nn
from torch.nn import functional

from app.imaging.region import bounding_box
from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.network import Network
from app.inference.session import Runtime
from tests.analytic_networks import liver_graph, with_card, write_models
from training.augmentation import NOTHING, PAPER, moved
from training.export import CardText, LesionGraph, LiverGraph, written
from training.judge import Overlap
from training.loop import build, loss_of, optimiser_of, rate_at
from training.networks import MixedPooling
from training.phantom import LIVER_RANGE_HU, abdomen
from training.recipes import paper
from training.split import folds

pytestmark = [pytest.mark.training, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

LIVER, LESION = paper("liver"), paper("lesion")


def test_row_data_117_scans_are_trained_on_and_13_tested_in_each_of_ten_folds():
    groups = [f"lits-{number}" for number in range(130)]
    dealt = folds(groups, LIVER.folds)
    assert [len(fold) for fold in dealt] == [13] * 10
    assert sorted(group for fold in dealt for group in fold) == sorted(groups)


def by_the_book(hounsfield, liver=None):
    """Window, equalise and resize one slice as the preprint says, in float64; (96, 96) in 0..255."""
    grey = np.round((np.clip(hounsfield.astype(np.float64), -100, 300) + 100) * 255 / 400).astype(int)
    cdf = np.cumsum(np.bincount(grey.ravel(), minlength=256))
    lowest = cdf[grey.min()]
    equalised = np.round((cdf[grey] - lowest) / (grey.size - lowest) * 255)
    if liver is not None:
        equalised = equalised * liver
    tensor = torch.from_numpy(equalised)[None, None]
    return functional.interpolate(tensor, (96, 96), mode="bilinear", antialias=True)[0, 0].numpy()


def test_rows_windowing_equalisation_and_size_of_the_liver_network():
    hounsfield = np.random.default_rng(1).integers(-1000, 1500, (2, 301, 253)).astype(np.int16)
    prepare, _ = build(LIVER)
    image = prepare(torch.from_numpy(hounsfield))
    assert image.shape == (2, 1, 96, 96)
    for found, slice_ in zip((image[:, 0].numpy() + 1) * 127.5, hounsfield, strict=True):
        assert np.abs(found - by_the_book(slice_)).max() < 1e-2


def test_rows_windowing_equalisation_and_size_of_the_lesion_network_inside_the_liver_map():
    random = np.random.default_rng(2)
    hounsfield = random.integers(-200, 400, (1, 3, 120, 140)).astype(np.int16)
    liver = np.zeros((1, 120, 140), bool)
    liver[:, 30:100, 20:90] = True
    prepare, _ = build(LESION)
    (image,) = prepare(torch.from_numpy(hounsfield), torch.from_numpy(liver))
    assert np.abs((image[0].numpy() + 1) * 127.5 - by_the_book(hounsfield[0, 0], liver[0])).max() < 1e-2


def test_row_size_the_output_has_the_size_of_the_input_and_is_learnt_at_96x96():
    prepare, network = build(replace(LIVER, width=4))
    seen = []
    network.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0].shape))
    hounsfield = torch.zeros((1, 512, 512), dtype=torch.int16)
    assert LiverGraph(prepare, network).eval()(hounsfield).probability.shape == (1, 512, 512)
    assert seen == [(1, 1, 96, 96)]


def dot(rows, columns):
    """Slices of air with a bright dot at each place, and its labels."""
    hounsfield = torch.full((len(rows), 1, 128, 128), -1000.0)
    labels = torch.zeros((len(rows), 128, 128), dtype=torch.uint8)
    for n, (row, column) in enumerate(zip(rows, columns, strict=True)):
        hounsfield[n, 0, row - 2 : row + 3, column - 2 : column + 3] = 1000.0
        labels[n, row - 2 : row + 3, column - 2 : column + 3] = 1
    return hounsfield, labels


def where_it_went(how, row, column, count=200):
    """Where dots lie after augmentation with `how` alone, (count, 2) from the middle in pixels, by grey values."""
    torch.manual_seed(1)
    hounsfield, labels = dot([row] * count, [column] * count)
    changed, moved_labels = moved(hounsfield, labels, torch.zeros(count, dtype=torch.bool), replace(NOTHING, **how))
    middle = torch.arange(128) - 63.5
    places = []
    for image in ((changed[:, 0] + 1024.0).clamp(min=30) - 30, moved_labels.float()):
        weight = image / image.sum(dim=(1, 2), keepdim=True)
        places.append(torch.stack(((weight.sum(2) * middle).sum(1), (weight.sum(1) * middle).sum(1)), dim=1))
    assert torch.allclose(*places, atol=0.8)
    return places[0].numpy()


def test_row_augmentation_is_these_four_and_nothing_else():
    changed = {field.name for field in fields(PAPER) if getattr(PAPER, field.name) != getattr(NOTHING, field.name)}
    assert changed == {"rotation_deg", "mirror", "scale", "shift"}
    assert LIVER.augmentation == LESION.augmentation == PAPER


def test_row_augmentation_rotation_by_a_random_angle():
    place = where_it_went({"rotation_deg": PAPER.rotation_deg}, 64, 104)
    angle = np.degrees(np.arctan2(place[:, 0], place[:, 1]))
    assert np.abs(angle).max() <= PAPER.rotation_deg + 1.5
    assert angle.min() < -8
    assert angle.max() > 8
    assert np.allclose(np.hypot(*place.T), 40.5, atol=1)


def test_row_augmentation_mirror_keeps_the_vertical_axis():
    place = where_it_went({"mirror": True}, 40, 100)
    assert np.allclose(place[:, 0], -23.5, atol=0.3)
    assert np.allclose(np.abs(place[:, 1]), 36.5, atol=0.3)
    assert 0.3 < (place[:, 1] < 0).mean() < 0.7


def test_row_augmentation_shrinks_by_a_factor_and_never_enlarges():
    place = where_it_went({"scale": PAPER.scale}, 40, 100)
    factor = place / [-23.5, 36.5]
    assert np.allclose(factor[:, 0], factor[:, 1], atol=0.03)
    assert 0.78 < factor.min() < 0.85
    assert 0.95 < factor.max() < 1.01


def test_row_augmentation_shifts_horizontally_and_vertically():
    change = where_it_went({"shift": PAPER.shift}, 64, 64) - 0.5
    for axis in (0, 1):
        assert np.abs(change[:, axis]).max() <= PAPER.shift * 128 + 0.5
        assert change[:, axis].min() < -6
        assert change[:, axis].max() > 6
    assert abs(np.corrcoef(change.T)[0, 1]) < 0.3


def test_row_augmentation_as_many_images_as_the_preprint_counts():
    for recipe, images in ((LIVER, 30_600), (LESION, 35_550)):
        epochs = recipe.steps * recipe.batch / images
        assert 20 - recipe.batch / images < epochs <= 20


def test_row_network_is_the_mixed_unet():
    """Four levels of two 3x3 convolutions and ReLU, mixed pooling, a bottleneck, four levels up, 1x1, sigmoid."""
    prepare, network = build(replace(LIVER, width=4))
    sizes, kinds = [], []

    def note(module, _arguments, output):
        kinds.append(type(module).__name__)
        sizes.append(output.shape[-1])

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ReLU | MixedPooling | nn.ConvTranspose2d | nn.Dropout | nn.Dropout2d):
            module.register_forward_hook(note)
    logit = network.eval()(torch.zeros(1, 1, 96, 96))
    twice = ["Conv2d", "ReLU"] * 2
    down, up = [*twice, "MixedPooling"], ["ConvTranspose2d", *twice]
    assert kinds == down * 4 + [*twice, "Dropout"] + up * 4 + ["Conv2d"]
    assert [size for kind, size in zip(kinds, sizes, strict=True) if kind == "MixedPooling"] == [48, 24, 12, 6]
    assert [size for kind, size in zip(kinds, sizes, strict=True) if kind == "ConvTranspose2d"] == [12, 24, 48, 96]
    inner = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m is not network.head]
    assert {m.kernel_size for m in inner} == {(3, 3)}
    assert network.head.kernel_size == (1, 1)
    assert logit.shape == (1, 1, 96, 96)
    hounsfield = torch.randint(-100, 300, (1, 96, 96), dtype=torch.int16)
    expected = network(prepare(hounsfield))[:, 0].sigmoid()
    assert torch.allclose(LiverGraph(prepare, network)(hounsfield).probability, expected, atol=1e-6)


def test_row_network_drops_half_while_it_learns_and_nothing_afterwards():
    _, network = build(replace(LIVER, width=16))
    dropped = network.dropout.train()(torch.ones(8, 256, 6, 6))
    assert 0.45 < float((dropped == 0).float().mean()) < 0.55
    assert torch.equal(network.dropout.eval()(torch.ones(2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize("recipe", [LIVER, LESION])
def test_row_loss_is_the_cross_entropy_of_every_pixel(recipe):
    torch.manual_seed(2)
    prepare, network = build(replace(recipe, width=4))
    hounsfield = torch.randint(-100, 300, (2, 1 if recipe.task == "liver" else 3, 96, 96)).float()
    labels = torch.randint(0, 3, (2, 96, 96)).to(torch.uint8)
    batch = {"hounsfield": hounsfield, "labels": labels, "weight": torch.ones(2, 96, 96), "liver": labels >= 1}
    image = prepare(hounsfield[:, 0]) if recipe.task == "liver" else prepare(hounsfield, batch["liver"])
    probability = network.eval()(image)[:, 0].sigmoid().detach().double().numpy()
    true = labels.numpy() >= (1 if recipe.task == "liver" else 2)
    expected = -np.mean(np.where(true, np.log(probability), np.log(1 - probability)))
    assert float(loss_of(batch, prepare, network, recipe)) == pytest.approx(expected, rel=1e-4)


def test_row_optimiser_is_adam_at_1e_5_with_batches_of_32():
    assert (LIVER.batch, LESION.batch) == (32, 32)
    assert {rate_at(step, LIVER) for step in (0, 1000, LIVER.steps - 1)} == {1e-5}
    weight = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    optimiser = optimiser_of(LIVER, nn.ParameterList([weight]))
    by_hand, mean, square = weight.detach().numpy().copy(), np.zeros(7), np.zeros(7)
    for step in range(1, 6):
        gradient = np.sin(step + by_hand)
        weight.grad = torch.from_numpy(gradient.copy())
        optimiser.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        by_hand -= 1e-5 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        assert np.allclose(weight.detach().numpy(), by_hand, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Narrow paper networks that have learnt nothing, exported: for what holds whatever the weights are."""
    folder = tmp_path_factory.mktemp("paper")
    torch.manual_seed(3)
    for recipe, kind in ((LIVER, LiverGraph), (LESION, LesionGraph)):
        graph = kind(*build(replace(recipe, width=4))).eval()
        text = CardText("0.0.1", 0.5, "nothing", trained_with="0" * 64 if recipe.task == "lesion" else "")
        written(graph, recipe, text, folder, torch.rand(8, 1, 96, 96) * 2 - 1)
    return folder


def test_row_cascade_the_second_network_sees_the_box_around_the_liver_and_marks_inside_it(exported, tmp_path):
    lesion = (exported / "lesion-0.0.1.onnx").read_bytes()
    models = write_models(tmp_path, liver=liver_graph(LIVER_RANGE_HU), lesion=with_card(lesion, threshold="0.3"))
    networks = load_networks(models, Runtime(threads=1))
    phantom = abdomen(1, (96, 96, 20), (4.0, 4.0, 10.0), noise_hu=0)
    seen, field = [], networks.lesion.field
    networks.lesion.field = lambda hounsfield, *rest: (seen.append(hounsfield.shape), field(hounsfield, *rest))[1]
    found = Cascade(networks, Runtime(threads=1)).segment(phantom.volume, lambda _stage, _fraction: None)
    liver_kji = phantom.truth.reoriented("LPS").liver.T
    assert seen == [liver_kji[bounding_box(liver_kji, (10.0, 4.0, 4.0), LESION.roi_margin_mm).slices].shape]
    assert found.lesions.any()
    assert not (found.lesions & ~phantom.truth.liver).any()


@pytest.mark.parametrize("recipe", [LIVER, LESION])
def test_row_size_the_exported_network_takes_any_size(exported, recipe):
    content = (exported / f"{recipe.task}-0.0.1.onnx").read_bytes()
    network = Network(content, hashlib.sha256(content).hexdigest(), recipe.task, recipe.task, Runtime(threads=1))
    hounsfield = np.random.default_rng(0).normal(60, 60, (3, 71, 93)).astype(np.int16)
    inputs = (hounsfield,) if recipe.task == "liver" else (hounsfield, hounsfield > 40, 3.0)
    assert network.run(*inputs).shape == hounsfield.shape


def test_row_score_is_twice_the_shared_over_the_sum_per_case_and_of_all_voxels_together():
    found, true = np.zeros((2, 10, 10), bool), np.zeros((2, 10, 10), bool)
    found[0, :4, :5], true[0, 2:6, :5] = True, True  # 20 and 20 pixels, 10 shared
    found[1, 0, :2], true[1, 0, :2] = True, True
    every = Overlap()
    assert [every.add(*pair) for pair in zip(found, true, strict=True)] == [0.5, 1.0]
    assert every.dice() == pytest.approx(2 * 12 / (22 + 22))
    assert Overlap().dice() == 1.0
