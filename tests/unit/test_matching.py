"""Lesions against lesions: both rules against brute force, by size, and where there is nothing to match."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from app.imaging.volume import Geometry
from app.matching import SIZE_CLASSES, Matched, match_lesions
from app.report import measure
from tests.toy_grids import ORIENTATIONS, labelled, oblique, scan_of


def lesions_in(boxes, shape=(14, 10, 8)):
    labels = np.ones(shape, np.uint8)
    for box in boxes:
        labels[tuple(slice(*ends) for ends in box)] = 2
    return labelled(labels)


A, B, C = [(1, 3)] * 3, [(5, 7), (1, 3), (1, 3)], [(10, 12), (6, 9), (4, 7)]
A_AND_B = [(2, 6), (1, 3), (1, 3)]


@pytest.mark.parametrize(
    ("lesions", "true_lesions", "counts", "scores"),
    [
        ([A, C], [A, B, C], (3, 2, 2, 2), (1.0, 2 / 3, 0.8)),
        ([A, B], [A], (1, 2, 1, 1), (0.5, 1.0, 2 / 3)),
        ([A_AND_B], [A, B], (2, 1, 2, 1), (1.0, 1.0, 1.0)),
        ([A], [C], (1, 1, 0, 0), (0.0, 0.0, 0.0)),
        ([], [A], (1, 0, 0, 0), (None, 0.0, 0.0)),
        ([A], [], (0, 1, 0, 0), (0.0, None, 0.0)),
        ([], [], (0, 0, 0, 0), (None, None, None)),
    ],
)
def test_lesions_match_if_they_share_a_voxel(lesions, true_lesions, counts, scores):
    found = match_lesions(lesions_in(lesions), lesions_in(true_lesions)).by_lesion
    assert (found.reference_count, found.predicted_count, found.found_count, found.true_count) == counts
    assert (found.precision, found.recall, found.f1) == pytest.approx(scores)


def parts(mask):
    ids, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return [{tuple(voxel) for voxel in np.argwhere(ids == n)} for n in range(1, count + 1)]


def size_class(voxels, geometry):
    """By the one lesion of a segmentation that holds nothing else: what the report says of it."""
    labels = np.zeros(geometry.shape, np.uint8)
    labels[tuple(np.array(sorted(voxels)).T)] = 2
    alone = labelled(labels, geometry)
    (found,) = measure(alone, scan_of(alone)).lesions
    return SIZE_CLASSES[sum(found.longest_axial_diameter_mm >= limit for limit in (10, 20))]


MASKS = st.tuples(*[st.integers(1, 6)] * 3).flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 2))


@settings(max_examples=60, deadline=None)
@given(masks=MASKS)
def test_both_rules_are_those_of_brute_force_in_each_size_class(masks):
    geometry = oblique(masks[0].shape, (4.0, 5.0, 6.0))
    found = match_lesions(*(labelled(2 * mask.astype(np.uint8), geometry) for mask in masks))
    predicted, true = (parts(mask) for mask in masks)

    def iou(p, t):
        return len(p & t) / len(p | t)

    rules = {
        "by_lesion": lambda p, t: bool(p & t),
        "by_lesion_iou": lambda p, t: iou(p, t) > 0.5,
    }
    for name, matches in rules.items():
        said = getattr(found, name)
        for which in (None, *SIZE_CLASSES):
            ps = [p for p in predicted if which in (None, size_class(p, geometry))]
            ts = [t for t in true if which in (None, size_class(t, geometry))]
            counts = said if which is None else said.by_size[which]
            assert counts.reference_count == len(ts)
            assert counts.predicted_count == len(ps)
            assert counts.found_count == sum(any(matches(p, t) for p in predicted) for t in ts)
            assert counts.true_count == sum(any(matches(p, t) for t in true) for p in ps)
    drawn = [iou(p, t) for p in predicted for t in true if iou(p, t) > 0.5]
    assert found.by_lesion_iou.mean_iou == (pytest.approx(np.mean(drawn)) if drawn else None)
    assert len(drawn) == found.by_lesion_iou.found_count == found.by_lesion_iou.true_count
    assert len(found.false_lesions) == sum(not any(p & t for t in true) for p in predicted)


def test_each_lesion_of_the_reference_names_its_partner_and_the_errors():
    geometry = Geometry((40, 30, 12), np.diag([-1.0, -1.0, 3.0, 1.0]))
    true, predicted = np.ones((2, *geometry.shape), np.uint8)
    true[2:22, 4:9, 3:6] = 2  # 20 x 5 mm, in three slices
    true[30:33, 20:23, 8] = 2  # missed
    predicted[4:16, 4:9, 3:6] = 2  # the larger part of it
    predicted[18:22, 4:9, 3:6] = 2  # and the smaller
    predicted[30, 3, 1] = 2  # on none
    segmentation, reference = labelled(predicted, geometry), labelled(true, geometry)
    found = match_lesions(segmentation, reference)
    large, missed = found.reference_lesions
    partner, *_ = measure(segmentation, scan_of(segmentation)).lesions
    assert (large.id, large.predicted_id, missed.predicted_id) == (1, 1, None)
    assert large.iou == pytest.approx(12 / 20)
    assert large.volume_error_ml == pytest.approx(-8 * 5 * 3 * 0.003)
    assert large.longest_axial_diameter_mm == pytest.approx(np.hypot(20, 4))
    assert large.longest_diameter_error_mm == pytest.approx(partner.longest_axial_diameter_mm - np.hypot(20, 4))
    assert large.centroid_mm == pytest.approx((-11.5, -6, 12))
    assert (missed.iou, missed.volume_error_ml, missed.longest_diameter_error_mm) == (0, None, None)
    assert (large.size_class, missed.size_class) == ("from_20_mm", "under_10_mm")
    assert found.false_lesions == (3,)
    assert "share a voxel" in found.by_lesion.rule
    assert "more than half" in found.by_lesion_iou.rule


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_every_orientation_matches_alike(codes):
    pair = lesions_in([A, C]), lesions_in([A_AND_B, C])
    expected = match_lesions(*pair).model_dump()
    found = match_lesions(*(each.reoriented(codes) for each in pair)).model_dump()
    for one, other in zip(found.pop("reference_lesions"), expected.pop("reference_lesions"), strict=True):
        assert one.pop("centroid_mm") == pytest.approx(other.pop("centroid_mm"))
        assert one == pytest.approx(other)
    assert found == expected


def test_matches_of_an_older_report_can_still_be_read():
    old = {"by_lesion": {"reference_count": 3, "predicted_count": 2, "found_count": 1, "true_count": 2}}
    found = Matched.model_validate(old)
    assert found.by_lesion.recall == pytest.approx(1 / 3)
    assert found.by_lesion_iou is None
