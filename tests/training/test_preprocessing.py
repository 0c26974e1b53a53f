"""Windowing and equalisation against slow, obvious second implementations in NumPy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from training.preprocessing import (
    CONTEXT_MM,
    LesionInput,
    LiverInput,
    equalised,
    equalised_between_levels,
    resized,
    slabs,
    windowed,
)

pytestmark = pytest.mark.training


def equalised_by_the_book(slice_):
    """The preprint's formula, pixel by pixel counts, in float64."""
    histogram = [int((slice_ == level).sum()) for level in range(256)]
    cdf = np.cumsum(histogram)
    cdf_min = next(int(value) for value in cdf if value > 0)
    if slice_.size == cdf_min:
        return np.zeros(slice_.shape)
    return np.round((cdf[slice_.astype(int)] - cdf_min) / (slice_.size - cdf_min) * 255)


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 37, 29), (2, 96, 96)])
@pytest.mark.parametrize("levels", [(0, 256), (40, 90), (255, 256)])
def test_equalisation_is_the_formula_of_the_preprint(shape, levels):
    grey = np.random.default_rng(1).integers(*levels, shape).astype(np.float32)
    found = equalised(torch.from_numpy(grey)).numpy()
    expected = np.stack([equalised_by_the_book(slice_) for slice_ in grey])
    assert np.array_equal(found, expected)


def test_equalisation_looks_at_each_slice_alone():
    grey = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (4, 20, 20)).astype(np.float32))
    together = equalised(grey)
    for number in range(4):
        assert torch.equal(together[number], equalised(grey[number : number + 1])[0])


def test_between_levels_it_is_the_same_formula_but_for_the_rounding():
    grey = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 40, 40)).astype(np.float32))
    difference = equalised_between_levels(grey, torch.ones_like(grey)) - equalised(grey)
    assert difference.abs().max() <= 0.5


def test_between_levels_a_rounding_error_changes_nothing_visible():
    grey = torch.from_numpy(np.random.default_rng(4).uniform(0, 255, (1, 60, 60)).astype(np.float32))
    moved = grey + 1e-5 * torch.randn(grey.shape, generator=torch.Generator().manual_seed(0))
    difference = equalised_between_levels(moved, torch.ones_like(grey)) - equalised_between_levels(
        grey, torch.ones_like(grey)
    )
    assert difference.abs().max() < 1e-3


def test_pixels_of_no_weight_are_not_counted():
    random = np.random.default_rng(5)
    grey = torch.from_numpy(random.integers(80, 120, (1, 30, 30)).astype(np.float32))
    weight = torch.zeros_like(grey)
    weight[:, 10:20, 10:20] = 1
    noisy = torch.where(weight > 0, grey, torch.from_numpy(random.uniform(0, 255, (1, 30, 30)).astype(np.float32)))
    inside = (slice(None), slice(10, 20), slice(10, 20))
    assert torch.equal(equalised_between_levels(grey, weight)[inside], equalised_between_levels(noisy, weight)[inside])


def test_the_window_multiplies_before_it_divides():
    hounsfield = torch.arange(-200, 400, dtype=torch.int16).view(1, 20, 30)
    clipped = np.clip(hounsfield.numpy().astype(np.float64), -100, 300)
    expected = np.round((clipped + 100) * 255 / 400)
    assert np.array_equal(windowed(hounsfield, -100.0, 300.0).round().numpy(), expected)


def test_the_liver_input_cannot_see_how_a_source_was_clipped():
    hounsfield = torch.from_numpy(np.random.default_rng(6).integers(-1000, 1500, (2, 50, 70)).astype(np.int16))
    prepare = LiverInput((0.0, 240.0), 32, equalise_first=False)
    expected = prepare(hounsfield)
    for lower, upper in ((-160, 240), (0, 255), (-200, 300)):
        assert torch.equal(prepare(hounsfield.clamp(lower, upper)), expected)


def test_a_slice_of_one_grey_value_gives_numbers():
    hounsfield = torch.full((1, 20, 20), -1000, dtype=torch.int16)
    assert torch.isfinite(LiverInput((-100.0, 300.0), 16, equalise_first=True)(hounsfield)).all()
    nothing = torch.zeros((1, 20, 20), dtype=torch.bool)
    assert torch.isfinite(LesionInput((-50.0, 240.0), 16)(hounsfield[:, None].repeat(1, 3, 1, 1), nothing)).all()


def test_the_lesion_input_is_blind_outside_the_liver():
    random = np.random.default_rng(7)
    liver = torch.zeros((1, 64, 64), dtype=torch.bool)
    liver[:, 16:48, 16:48] = True
    first = torch.from_numpy(random.integers(50, 150, (1, 3, 64, 64)).astype(np.int16))
    other = torch.where(liver, first, torch.tensor(1000, dtype=torch.int16))
    prepare = LesionInput((-50.0, 240.0), 64)
    assert torch.equal(prepare(first, liver), prepare(other, liver))


def test_shrinking_averages_and_keeps_the_mean():
    image = torch.from_numpy(np.random.default_rng(8).normal(size=(1, 1, 96, 96)).astype(np.float32))
    small = resized(image, (32, 32))
    assert small.std() < 0.6 * image.std()
    assert abs(float(small.mean() - image.mean())) < 0.02


@pytest.mark.parametrize("size", [(192, 192), (37, 29), (301, 415), (60, 500)])
def test_the_resize_is_bilinear_with_antialiasing(size):
    image = torch.from_numpy(np.random.default_rng(9).uniform(0, 255, (2, 1, 131, 117)))
    expected = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    assert (resized(image.to(torch.float32), size) - expected).abs().max() < 1e-3


@pytest.mark.parametrize("slice_mm", [0.7, 1.0, 3.0, 5.0, 8.0])
def test_planes_are_gaussian_averages_along_the_scan(slice_mm):
    hounsfield = np.random.default_rng(10).integers(-900, 900, (40, 3, 4)).astype(np.int16)
    wanted = [17, 20]
    found = slabs(torch.from_numpy(hounsfield), torch.tensor(wanted), torch.tensor(slice_mm)).numpy()
    clipped = np.clip(hounsfield.astype(np.float64), -200, 400)
    for n, k in enumerate(wanted):
        for p, plane_mm in enumerate((0.0, -5.0, 5.0)):
            away = (np.arange(40) - k) * slice_mm - plane_mm
            weight = np.where(np.abs(away) <= 6.0, np.exp(-0.5 * (away / 2.0) ** 2), 0.0)
            expected = np.tensordot(weight / weight.sum(), clipped, 1)
            assert np.abs(found[n, p] - expected).max() < 0.05


def test_at_the_end_of_a_scan_there_are_planes_too():
    hounsfield = torch.arange(5, dtype=torch.int16).view(5, 1, 1).repeat(1, 2, 2) * 10
    for slice_mm in (1.0, 5.0, 20.0):
        planes = slabs(hounsfield, torch.tensor([0, 4]), torch.tensor(slice_mm))
        assert torch.isfinite(planes).all()
        assert (planes[0, 1] <= planes[0, 2] + 1e-3).all()
    assert torch.allclose(slabs(hounsfield, torch.tensor([0]), torch.tensor(20.0))[0], torch.zeros(3, 2, 2), atol=1e-3)


def test_what_lies_further_away_than_the_context_changes_nothing():
    hounsfield = torch.from_numpy(np.random.default_rng(11).integers(0, 200, (60, 2, 2)).astype(np.int16))
    reach = int(np.ceil(CONTEXT_MM / 1.5))
    whole = slabs(hounsfield, torch.tensor([30]), torch.tensor(1.5))
    part = slabs(hounsfield[30 - reach : 31 + reach], torch.tensor([reach]), torch.tensor(1.5))
    assert torch.allclose(whole, part, atol=1e-4)
