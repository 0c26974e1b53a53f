"""What is said of a lesion beyond its size, against brute force, against SimpleITK, and on shapes of known answer."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from app.imaging.evidence import Evidence
from app.imaging.lesions import number_lesions
from app.imaging.region import Box, bounding_box
from app.imaging.surfaces import area_mm2, direction_weights
from app.imaging.volume import Geometry, Segmentation
from app.report import lesion_instances, measure
from tests.toy_grids import ORIENTATIONS, SPACING_MM, labelled, oblique, scan_of

SPACINGS = [SPACING_MM, (1.0, 1.0, 1.0), (5.0, 0.7, 0.9)]
SMALL = st.tuples(*[st.integers(1, 5)] * 3)


def ball(shape, centre_mm, radius_mm, spacing_mm):
    mm = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing_mm, strict=True)], indexing="ij"), -1)
    return ((mm - centre_mm) ** 2).sum(axis=-1) <= radius_mm**2


def measured(segmentation, voxels=None):
    return measure(segmentation, scan_of(segmentation, voxels)).lesions


# Distance to the capsule


def brute_force_distance_mm(lesion, outside, spacing_mm):
    """The shortest way between two sets of voxels, each voxel a box, looked at pair by pair."""
    ways = [
        np.linalg.norm(np.maximum(np.abs(one - other) - 1, 0) * spacing_mm)
        for one in np.argwhere(lesion)
        for other in np.argwhere(outside)
    ]
    return min(ways, default=None)


@settings(max_examples=60, deadline=None)
@given(labels=SMALL.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 2))),
       spacing_mm=st.sampled_from(SPACINGS))  # fmt: skip
def test_the_way_to_the_capsule_is_that_of_brute_force(labels, spacing_mm):
    segmentation = labelled(labels, oblique(labels.shape, spacing_mm))
    ids = lesion_instances(segmentation)
    for lesion in measured(segmentation):
        expected = brute_force_distance_mm(ids == lesion.id, labels == 0, spacing_mm)
        assert lesion.capsule_distance_mm == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_the_edge_of_the_scan_is_no_capsule():
    labels = np.ones((8, 9, 10), np.uint8)
    labels[0, 4, 5] = labels[4, 4, 5] = 2
    assert [lesion.capsule_distance_mm for lesion in measured(labelled(labels))] == [None, None]
    labels[7] = 0
    geometry = Geometry(labels.shape, np.diag([-2.0, -1.0, 3.0, 1.0]))
    assert [lesion.capsule_distance_mm for lesion in measured(labelled(labels, geometry))] == [12.0, 4.0]


def test_a_ball_in_a_ball_lies_as_deep_as_it_was_put():
    spacing_mm, shape, centre_mm = (0.8, 0.7, 1.5), (110, 125, 60), np.array([43.0, 44.0, 44.0])
    liver = ball(shape, centre_mm, 40, spacing_mm)
    lesion = ball(shape, np.add(centre_mm, (10, 0, 0)), 8, spacing_mm)
    (found,) = measured(labelled(np.where(lesion, 2, liver), oblique(shape, spacing_mm)))
    assert found.capsule_distance_mm == pytest.approx(40 - 10 - 8, abs=1.0)


# Sphericity


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.75, 0.75, 2.0), (0.7, 0.7, 5.0)])
@pytest.mark.parametrize("radius_mm", [8.0, 20.0])
def test_a_ball_has_the_surface_of_a_ball_and_sphericity_one(spacing_mm, radius_mm):
    shape = tuple(int(2 * radius_mm / s) + 4 for s in spacing_mm)
    mask = ball(shape, np.array([radius_mm + 1.3] * 3), radius_mm, spacing_mm)
    geometry = oblique(shape, spacing_mm)
    area = area_mm2(mask, geometry, direction_weights(geometry))
    assert area == pytest.approx(4 * np.pi * radius_mm**2, rel=0.015)
    (found,) = measured(labelled(2 * mask, geometry))
    assert found.sphericity == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("edges_mm", [(20, 20, 20), (8, 12, 40)])
def test_a_block_is_no_ball(edges_mm):
    """Flat faces along the grid are the worst case of thirteen directions: a surface up to a fifth too small."""
    a, b, c = edges_mm
    labels = np.zeros((24, 26, 24), np.uint8)
    labels[2 : 2 + a, 2 : 2 + b // 2, 2 : 2 + c // 2] = 2
    (found,) = measured(labelled(labels, oblique(labels.shape, (1.0, 2.0, 2.0))))
    truth = np.cbrt(36 * np.pi * (a * b * c) ** 2) / (2 * (a * b + b * c + c * a))
    assert truth < found.sphericity < 1.25 * truth


@settings(max_examples=30, deadline=None)
@given(mask=st.tuples(*[st.integers(2, 7)] * 3).flatmap(lambda shape: arrays(bool, shape)))
def test_on_a_cubic_grid_the_surface_is_that_of_simpleitk(mask):
    if not mask.any():
        return
    geometry = oblique(mask.shape, (2.0, 2.0, 2.0))
    image = SimpleITK.GetImageFromArray(np.pad(mask, 1).T.astype(np.uint8))
    image.SetSpacing((2.0, 2.0, 2.0))
    theirs = SimpleITK.LabelShapeStatisticsImageFilter()
    theirs.ComputePerimeterOn()
    theirs.Execute(image)
    # It writes its weights with six digits.
    assert area_mm2(mask, geometry, direction_weights(geometry)) == pytest.approx(theirs.GetPerimeter(1), rel=1e-4)


# Grey values


def test_grey_values_are_those_of_numpy():
    rng = np.random.default_rng(3)
    labels = np.ones((9, 11, 7), np.uint8)
    labels[2:5, 3:7, 1:4] = 2
    voxels = rng.integers(-1000, 3000, labels.shape)
    (found,) = measured(labelled(labels), voxels)
    inside = voxels[labels == 2]
    assert found.mean_hu == pytest.approx(inside.mean(), abs=1e-9)
    assert found.sd_hu == pytest.approx(inside.std(), abs=1e-9)
    percentiles = (found.p5_hu, found.median_hu, found.p95_hu)
    assert percentiles == pytest.approx(np.percentile(inside, (5, 50, 95)), abs=1e-9)


# The network's certainty


def with_evidence(probability, labels, threshold):
    """A segmentation that this probability makes of a liver, on the smallest box that a cascade could have seen."""
    lesions = (probability >= threshold) & (labels > 0)
    labels = np.where(lesions, 2, np.minimum(labels, 1)).astype(np.uint8)
    geometry = oblique(labels.shape)
    box = bounding_box(labels > 0, geometry.spacing_mm, 1.0)
    evidence = Evidence(np.asfortranarray(probability[box.slices], np.float32), box, threshold)
    return replace(labelled(labels, geometry), evidence=evidence)


EIGHTHS = st.integers(0, 8).map(lambda n: n / 8)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), shape=SMALL)
def test_volumes_at_further_thresholds_are_those_of_brute_force(data, shape):
    probability = data.draw(arrays(np.float64, shape, elements=EIGHTHS))
    liver = data.draw(arrays(bool, shape))
    threshold = data.draw(st.sampled_from([0.25, 0.5, 0.75]))
    if not liver.any():
        return
    segmentation = with_evidence(probability, liver.astype(np.uint8), threshold)
    ids = lesion_instances(segmentation)
    pieces, _ = ndimage.label(liver & (probability >= threshold / 2), np.ones((3, 3, 3)))
    voxel_ml = np.prod(SPACING_MM) / 1000
    for lesion in measured(segmentation):
        own = ids == lesion.id
        (piece,) = np.unique(pieces[own])
        around = (pieces == piece) & (ids == 0)
        low, high = (own & (probability >= (1 + threshold) / 2)).sum(), own.sum() + around.sum()
        assert lesion.volume_interval_ml == pytest.approx((low * voxel_ml, high * voxel_ml))
        assert lesion.volume_interval_ml[0] <= lesion.volume_ml <= lesion.volume_interval_ml[1]
        assert lesion.mean_probability == pytest.approx(probability[own].mean())


def test_without_probabilities_nothing_is_said_of_certainty():
    labels = np.ones((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 2
    (found,) = measured(labelled(labels))
    assert (found.mean_probability, found.volume_interval_ml) == (None, None)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_evidence_turns_with_its_segmentation(codes):
    rng = np.random.default_rng(0)
    labels = np.zeros((7, 9, 11), np.uint8)
    labels[1:5, 3:9, 4:9] = 1
    upright = with_evidence(rng.random(labels.shape), labels, 0.8)
    turned = upright.reoriented(codes)
    on_grid = np.zeros(turned.geometry.shape)
    on_grid[turned.evidence.box.slices] = turned.evidence.probability
    assert np.array_equal((on_grid >= 0.8) & (turned.labels > 0), turned.lesions)
    again = [(lesion.mean_probability, *lesion.volume_interval_ml) for lesion in measured(turned)]
    np.testing.assert_allclose(again, [(x.mean_probability, *x.volume_interval_ml) for x in measured(upright)])


def test_evidence_that_does_not_fill_its_box_is_refused():
    with pytest.raises(ValueError, match="shape"):
        Evidence(np.zeros((2, 2, 2), np.float32), Box((0, 0, 0), (2, 2, 3)), 0.5)


# Lesions that touch


def two_balls(apart_mm, radii_mm=(10.0, 10.0), spacing_mm=(1.0, 0.8, 2.0)):
    first = np.array([14.0, 13.0, 14.0])
    direction = np.array([0.8, 0.6, 0.0])
    shape = tuple(int(n / s) for n, s in zip((60, 50, 30), spacing_mm, strict=True))
    both = [ball(shape, c, r, spacing_mm) for c, r in zip((first, first + apart_mm * direction), radii_mm, strict=True)]
    labels = np.where(both[0] | both[1], 2, 1)
    return replace(labelled(labels, oblique(shape, spacing_mm)), split_lesions=True), both


SAME, OTHER = (10, 10), (10, 6)


@pytest.mark.parametrize(
    ("apart_mm", "radii_mm", "count"),
    [(10, SAME, 1), (15, SAME, 1), (19, SAME, 2), (19.9, SAME, 2), (30, SAME, 2), (12, OTHER, 1), (15.6, OTHER, 2)],
)
def test_balls_that_barely_touch_are_two_lesions_and_balls_that_overlap_are_one(apart_mm, radii_mm, count):
    segmentation, both = two_balls(apart_mm, radii_mm)
    found = measured(segmentation)
    assert len(found) == count
    if count == 2:
        for lesion, made in zip(found, both, strict=True):
            assert lesion.volume_ml == pytest.approx(made.sum() * segmentation.geometry.voxel_volume_ml, rel=0.05)


def test_lesions_are_split_only_where_it_was_asked_for():
    segmentation, _ = two_balls(19)
    (found,) = measured(replace(segmentation, split_lesions=False))
    assert found.volume_ml == pytest.approx(sum(lesion.volume_ml for lesion in measured(segmentation)))


def test_what_is_split_keeps_every_voxel_and_numbers_follow_size():
    segmentation, _ = two_balls(19, (8.0, 10.0))
    numbered = number_lesions(segmentation)
    assert np.array_equal(numbered.on_grid > 0, segmentation.lesions)
    assert list(np.bincount(numbered.on_grid.ravel())[1:]) == list(numbered.voxel_counts)
    assert sorted(numbered.voxel_counts, reverse=True) == list(numbered.voxel_counts)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_touching_lesions_are_split_alike_in_every_orientation(codes):
    segmentation, _ = two_balls(18.5)
    found = lesion_instances(segmentation.reoriented(codes))
    upright = Segmentation(lesion_instances(segmentation).astype(np.uint8), segmentation.geometry)
    np.testing.assert_array_equal(found, upright.reoriented(codes).labels)


def test_noise_is_not_split_into_voxels():
    rng = np.random.default_rng(5)
    labels = np.where(rng.random((30, 30, 12)) < 0.3, 2, 1)
    plain = labelled(labels)
    assert len(measured(replace(plain, split_lesions=True))) == len(measured(plain))
