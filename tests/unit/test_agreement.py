"""Agreement with a reference against brute force, surface-distance and SimpleITK, and for empty masks."""

import warnings

import numpy as np
import pytest
import SimpleITK
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation
from surface_distance import lookup_tables

from app.agreement import Agreement, agree, compare
from app.imaging.volume import Geometry
from tests.toy_grids import ORIENTATIONS, SPACING_MM, labelled, oblique
from training.phantom import abdomen


def blob(shape, centre, radii):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return (((grid - centre) / radii) ** 2).sum(axis=-1) <= 1


def brute_force_surface(mask, spacing_mm):
    """Corners with voxels of both kinds around them, looked at one by one, with the area that each stands for."""
    areas_mm2 = lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    padded = np.pad(mask, 1)
    found = []
    for corner in np.ndindex(*(n - 1 for n in padded.shape)):
        around = padded[tuple(slice(c, c + 2) for c in corner)]
        if around.any() and not around.all():
            code = int((around * lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL).sum())
            found.append((np.array(corner) * spacing_mm, areas_mm2[code]))
    points, areas = zip(*found, strict=True)
    return np.array(points), np.array(areas)


def weighted_percentile(distances, areas, share):
    total, reached = areas.sum(), 0.0
    for distance, area in sorted(zip(distances, areas, strict=True)):
        reached += area
        if reached / total >= share - 1e-9:
            return distance
    raise AssertionError


TOLERANCES_MM = (1, 2, 3, 5)


def brute_force_distances(mask, reference, spacing_mm):
    (a, a_areas), (b, b_areas) = (brute_force_surface(m, spacing_mm) for m in (mask, reference))
    apart = np.linalg.norm(a[:, None] - b[None], axis=-1)
    there, back = apart.min(axis=1), apart.min(axis=0)
    assd = (there @ a_areas + back @ b_areas) / (a_areas.sum() + b_areas.sum())
    hd95 = max(weighted_percentile(there, a_areas, 0.95), weighted_percentile(back, b_areas, 0.95))
    rmsd = np.sqrt((there**2 @ a_areas + back**2 @ b_areas) / (a_areas.sum() + b_areas.sum()))
    within = [
        (a_areas[there <= most + 1e-6].sum() + b_areas[back <= most + 1e-6].sum()) / (a_areas.sum() + b_areas.sum())
        for most in TOLERANCES_MM
    ]
    return [assd, rmsd, hd95, max(there.max(), back.max()), *within]


def distances_of(found):
    return [found.assd_mm, found.rmsd_mm, found.hd95_mm, found.hd_mm,
            found.nsd_1mm, found.nsd_2mm, found.nsd_3mm, found.nsd_5mm]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    masks=st.tuples(*[st.integers(1, 5)] * 3).flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 2)),
    spacing_mm=st.sampled_from([SPACING_MM, (1.0, 1.0, 1.0)]),
)
def test_distances_and_overlaps_are_those_of_brute_force(masks, spacing_mm):
    mask, reference = masks
    found = compare(mask, reference, oblique(mask.shape, spacing_mm))
    if not (mask.any() and reference.any()):
        assert set(distances_of(found)) == {None}
        return
    one, other = ({tuple(voxel) for voxel in np.argwhere(m)} for m in masks)
    assert found.dice == pytest.approx(2 * len(one & other) / (len(one) + len(other)))
    assert found.voe == pytest.approx(1 - len(one & other) / len(one | other))
    assert found.rvd == pytest.approx((len(one) - len(other)) / len(other))
    assert found.volume_error_ml == pytest.approx((len(one) - len(other)) * np.prod(spacing_mm) / 1000)
    assert found.volume_error_percent == pytest.approx(100 * (len(one) - len(other)) / len(other))
    assert (found.voxels, found.reference_voxels, found.shared_voxels) == (len(one), len(other), len(one & other))
    assert distances_of(found) == pytest.approx(brute_force_distances(mask, reference, spacing_mm), abs=1e-6)


@pytest.mark.parametrize("spacing_mm", [SPACING_MM, (0.7, 0.7, 1.0)])
def test_distances_are_those_of_the_surface_distance_package(spacing_mm):
    shape = (30, 26, 18)
    reference = blob(shape, (14, 12, 8), (9, 7, 5))
    mask = blob(shape, (16, 12.5, 9), (9.5, 6, 6)) | blob(shape, (4, 4, 4), (2, 2, 2))
    found = compare(mask, reference, oblique(shape, spacing_mm))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package calls names that SciPy will drop
        theirs = surface_distance.compute_surface_distances(reference, mask, spacing_mm)
    distances = np.concatenate([theirs["distances_gt_to_pred"], theirs["distances_pred_to_gt"]])
    areas = np.concatenate([theirs["surfel_areas_gt"], theirs["surfel_areas_pred"]])
    assert found.assd_mm == pytest.approx(np.average(distances, weights=areas), abs=1e-6)
    assert found.hd95_mm == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-6)
    assert found.hd_mm == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 100), abs=1e-6)
    for most in TOLERANCES_MM:
        theirs_within = surface_distance.compute_surface_dice_at_tolerance(theirs, most + 1e-6)
        assert getattr(found, f"nsd_{most}mm") == pytest.approx(theirs_within, abs=1e-9)


def as_image(mask, spacing_mm):
    image = SimpleITK.GetImageFromArray(np.asarray(mask).T.astype(np.uint8))
    image.SetSpacing(spacing_mm)
    return image


def test_overlaps_are_those_of_simpleitk_and_hausdorff_is_as_near_as_its_definition():
    """Theirs goes from the voxel centres of one mask to those of the other; a surface is half a voxel away."""
    shape, spacing_mm = (30, 26, 18), (0.7, 0.9, 2.0)
    reference = blob(shape, (14, 12, 8), (9, 7, 5))
    mask = blob(shape, (16, 12.5, 9), (9.5, 6, 6)) | blob(shape, (4, 4, 4), (2, 2, 2))
    found = compare(mask, reference, oblique(shape, spacing_mm))
    images = as_image(mask, spacing_mm), as_image(reference, spacing_mm)
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    assert found.dice == pytest.approx(overlap.GetDiceCoefficient())
    assert found.voe == pytest.approx(1 - overlap.GetJaccardCoefficient())
    hausdorff = SimpleITK.HausdorffDistanceImageFilter()
    hausdorff.Execute(*images)
    assert found.hd_mm == pytest.approx(hausdorff.GetHausdorffDistance(), abs=np.linalg.norm(spacing_mm))


def test_a_shift_by_one_thick_slice_counts_in_mm():
    shape = (20, 20, 12)
    reference = np.zeros(shape, bool)
    reference[4:16, 4:16, 3:7] = True
    geometry = Geometry(shape, np.diag([-1.0, -1.0, 7.0, 1.0]))
    through = compare(np.roll(reference, 1, axis=2), reference, geometry)
    within = compare(np.roll(reference, 1, axis=0), reference, geometry)
    assert (through.hd95_mm, within.hd95_mm) == (7.0, 1.0)


def test_a_mask_agrees_perfectly_with_itself_even_at_the_edge_of_the_scan():
    mask = np.ones((3, 4, 5), bool)
    found = compare(mask, mask, oblique(mask.shape))
    assert found.model_dump() == {
        "dice": 1, "voe": 0, "rvd": 0, "assd_mm": 0, "rmsd_mm": 0, "hd95_mm": 0, "hd_mm": 0, "nsd_1mm": 1, "nsd_2mm": 1,
        "nsd_3mm": 1, "nsd_5mm": 1, "volume_error_ml": 0, "volume_error_percent": 0, "voxels": 60,
        "reference_voxels": 60, "shared_voxels": 60,
    }  # fmt: skip


def test_empty_masks_have_defined_agreement():
    full, empty = np.ones((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    geometry = Geometry((2, 3, 4), np.diag([10.0, 10.0, 10.0, 1]))
    names = ("dice", "voe", "rvd", "assd_mm", "hd95_mm", "volume_error_ml")
    expected = {
        "both": (1.0, 0.0, None, None, None, 0.0),
        "missed": (0.0, 1.0, -1.0, None, None, -24.0),
        "invented": (0.0, 1.0, None, None, None, pytest.approx(24.0)),
    }
    pairs = {"both": (empty, empty), "missed": (empty, full), "invented": (full, empty)}
    for name, (mask, reference) in pairs.items():
        found = compare(mask, reference, geometry).model_dump()
        assert tuple(found[n] for n in names) == pytest.approx(expected[name]), name


def test_without_any_label_in_either_all_is_defined():
    nothing = labelled(np.zeros((4, 5, 6)))
    found = agree(nothing, nothing)
    assert (found.liver.dice, found.lesion.dice, found.lesion.by_lesion.f1) == (1.0, 1.0, None)


def test_liver_means_the_organ_with_its_lesions():
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1:5, 1:5, 1:5] = 1
    with_lesion = labels.copy()
    with_lesion[2, 2, 2] = 2
    for pair in ((labels, with_lesion), (with_lesion, labels)):
        found = agree(*(labelled(each) for each in pair))
        assert (found.liver.dice, found.lesion.dice) == (1.0, 0.0)


def test_every_orientation_gives_the_same_agreement():
    phantom = abdomen(1, (40, 36, 16), (8.0, 8.5, 10.0), noise_hu=0)
    wide = np.maximum(phantom.truth.labels, binary_dilation(phantom.truth.liver)).astype(np.uint8)
    wide[phantom.truth.labels == 2] = 1
    wide[binary_dilation(phantom.truth.lesions)] = 2
    grown = labelled(wide, phantom.truth.geometry)
    expected = agree(grown, phantom.truth)
    assert 0.3 < expected.lesion.dice < 0.95
    for codes in ORIENTATIONS:
        turned = agree(grown.reoriented(codes), phantom.truth.reoriented(codes))
        assert turned.liver.model_dump() == pytest.approx(expected.liver.model_dump(), rel=1e-3)
        assert turned.lesion.by_lesion == expected.lesion.by_lesion
        assert turned.lesion.hd95_mm == pytest.approx(expected.lesion.hd95_mm, rel=1e-3)


def test_another_grid_is_refused():
    one = labelled(np.zeros((4, 5, 6)))
    with pytest.raises(ValueError, match="same grid"):
        agree(one, labelled(np.zeros((4, 5, 6)), Geometry((4, 5, 6), np.eye(4))))


def test_agreement_survives_json():
    phantom = abdomen(1, (40, 36, 16), (8.0, 8.5, 10.0), noise_hu=0)
    found = agree(phantom.truth, labelled(np.roll(phantom.truth.labels, 1, axis=0), phantom.truth.geometry))
    assert Agreement.model_validate_json(found.model_dump_json()) == found
