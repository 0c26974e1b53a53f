"""Measurements against truth, against brute force, and in every orientation."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.agreement import agree
from app.imaging.diameters import axial_diameters
from app.imaging.volume import Geometry, Segmentation, Volume
from app.quality import Finding, Quality
from app.report import ModelReport, Report, ScanReport, Timings, lesion_instances, measure
from tests.toy_grids import ORIENTATIONS, SPACING_MM, labelled, oblique, scan_of
from training.phantom import HOUNSFIELD, Tissue, abdomen


def outline_points(mask, geometry, through, k):
    """The middles of the in-plane edges of every voxel of slice k, in RAS mm."""
    voxels = [voxel for voxel in np.argwhere(mask) if voxel[through] == k]
    steps = [half * np.eye(3)[axis] for axis in range(3) if axis != through for half in (-0.5, 0.5)]
    return geometry.to_mm(np.array([voxel + step for voxel in voxels for step in steps]).reshape(-1, 3))


def chord_at(t, s, at):
    """Length of the cut at t=at through everything that lies between any two of the points (t, s)."""
    u, v = np.triu_indices(len(t), 1)
    beside = np.abs(t[u] - t[v]) < 1e-9
    crossed = (np.minimum(t[u], t[v]) - 1e-9 <= at) & (at <= np.maximum(t[u], t[v]) + 1e-9) & ~beside
    u, v = u[crossed], v[crossed]
    reached = s[u] + (at - t[u]) / (t[v] - t[u]) * (s[v] - s[u])
    reached = np.concatenate([reached, s[np.abs(t - at) < 1e-9]])
    return np.ptp(reached)


def brute_force_diameters(mask, geometry):
    """Every pair of outline points in 3-D, and across the longest every chord at every point: slow and plain."""
    through = next(n for n, code in enumerate(geometry.axis_codes) if code in "SI")
    found = [(0.0, 0.0)]
    for k in range(mask.shape[through]):
        mm = outline_points(mask, geometry, through, k)
        if not len(mm):
            continue
        lengths = np.linalg.norm(mm[:, None] - mm[None], axis=-1)
        normal = np.cross(*np.delete(geometry.affine[:3, :3], through, axis=1).T)
        for p, q in np.argwhere(lengths >= lengths.max() - 1e-7):
            along = (mm[q] - mm[p]) / lengths.max()
            across = np.cross(normal / np.linalg.norm(normal), along)
            widest = max(chord_at(mm @ along, mm @ across, at) for at in mm @ along)
            found.append((round(lengths.max(), 6), widest))
    return max(found)


def lengths(diameters):
    return diameters.longest_mm, diameters.perpendicular_mm


@settings(max_examples=40, deadline=None)
@given(
    mask=arrays(bool, st.tuples(*[st.integers(1, 4)] * 3)),
    spacing_mm=st.sampled_from([SPACING_MM, (1.0, 1.0, 1.0), (5.0, 0.7, 0.9)]),
)
def test_diameters_are_those_of_brute_force_on_oblique_anisotropic_grids(mask, spacing_mm):
    geometry = oblique(mask.shape, spacing_mm)
    if not mask.any():
        with pytest.raises(ValueError, match="empty"):
            axial_diameters(mask, geometry)
        return
    found = axial_diameters(mask, geometry)
    np.testing.assert_allclose(lengths(found), brute_force_diameters(mask, geometry), atol=1e-6)
    longest, across = (np.array(ends) for ends in (found.longest_ends_mm, found.perpendicular_ends_mm))
    np.testing.assert_allclose([np.linalg.norm(np.diff(ends, axis=0)) for ends in (longest, across)], lengths(found))
    assert float(np.diff(longest, axis=0)[0] @ np.diff(across, axis=0)[0]) == pytest.approx(0, abs=1e-5)
    outline = outline_points(mask, geometry, 2, found.slice)
    for end in longest:
        assert np.linalg.norm(outline - end, axis=1).min() < 1e-6
    u, v = np.linalg.solve(np.stack([np.diff(longest, axis=0)[0], -np.diff(across, axis=0)[0], [1.0, 2.0, 3.0]]).T,
                           across[0] - longest[0])[:2]  # fmt: skip
    assert -1e-6 <= u <= 1 + 1e-6
    assert -1e-6 <= v <= 1 + 1e-6


def test_diameters_on_a_sheared_grid_are_true_lengths():
    affine = np.array([[-1.0, 0.5, 0, 0], [0, -1.2, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
    mask = np.zeros((6, 6, 2), bool)
    mask[0:6, 2, 0] = mask[1, 0:5, 1] = True
    geometry = Geometry(mask.shape, affine)
    found = axial_diameters(mask, geometry)
    np.testing.assert_allclose(lengths(found), brute_force_diameters(mask, geometry), atol=1e-9)
    for ends, length in zip((found.longest_ends_mm, found.perpendicular_ends_mm), lengths(found), strict=True):
        assert np.linalg.norm(np.diff(ends, axis=0)) == pytest.approx(length)


def test_a_single_voxel_is_as_long_and_as_wide_as_the_voxel():
    diameters = axial_diameters(np.ones((1, 1, 1), bool), oblique((1, 1, 1)))
    np.testing.assert_allclose(lengths(diameters), (1.3, 0.8))


def test_a_disc_measures_its_diameter_within_a_fraction_of_a_voxel():
    x, y = np.mgrid[-15:15.5:0.7, -15:15.5:0.7]
    mask = (x**2 + y**2 <= 10**2)[..., None]
    geometry = Geometry(mask.shape, np.diag([-0.7, -0.7, 5.0, 1]))
    longest, perpendicular = lengths(axial_diameters(mask, geometry))
    assert longest == pytest.approx(20, abs=0.7)
    assert perpendicular == pytest.approx(20, abs=0.7)


def test_a_rod_along_the_patient_is_short_in_every_axial_slice():
    mask = np.zeros((3, 3, 20), bool)
    mask[1, 1] = True
    assert axial_diameters(mask, oblique(mask.shape)).longest_mm == pytest.approx(1.3)


def test_volumes_means_and_centroids_are_exact():
    rng = np.random.default_rng(1)
    labels = np.zeros((9, 11, 7), np.uint8)
    labels[1:8, 1:10, 1:6] = 1
    labels[2:4, 2:4, 2:4] = 2  # 8 voxels
    labels[6, 7, 4] = 2
    segmentation = labelled(labels)
    voxels = rng.integers(-200, 300, labels.shape)
    liver, (first, second) = measure(segmentation, scan_of(segmentation, voxels))
    voxel_ml = 0.8 * 1.3 * 5.0 / 1000
    assert liver.volume_ml == pytest.approx((labels > 0).sum() * voxel_ml, abs=1e-9)
    assert liver.mean_hu == pytest.approx(voxels[labels > 0].mean(), abs=1e-9)
    assert (first.volume_ml, second.volume_ml) == pytest.approx((8 * voxel_ml, voxel_ml), abs=1e-9)
    assert first.mean_hu == pytest.approx(voxels[2:4, 2:4, 2:4].mean(), abs=1e-9)
    assert first.centroid_mm == pytest.approx(segmentation.geometry.to_mm([2.5, 2.5, 2.5]), abs=1e-9)
    assert second.centroid_mm == pytest.approx(segmentation.geometry.to_mm([6, 7, 4]), abs=1e-9)
    assert (liver.touches_border, first.touches_border) == (False, False)


def test_lesions_that_touch_by_a_corner_are_one():
    labels = np.ones((6, 6, 6), np.uint8)
    labels[1, 1, 1] = labels[2, 2, 2] = labels[4, 4, 4] = 2
    instances = lesion_instances(labelled(labels))
    assert instances.dtype == np.uint16
    assert instances.shape == labels.shape
    assert instances[1, 1, 1] == instances[2, 2, 2] == 1
    assert instances[4, 4, 4] == 2
    assert np.count_nonzero(instances) == 3


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 7, 1), (3, 1, 5), (9, 9, 1), (5, 5, 5)])
def test_lesions_as_close_as_they_can_be_are_told_apart(shape):
    labels = np.ones((12, 12, 12), np.uint8)
    labels[tuple(slice(2, 2 + n, 2) for n in shape)] = 2
    instances = lesion_instances(labelled(labels))
    assert instances.max() == np.count_nonzero(instances) == np.prod([(n + 1) // 2 for n in shape])


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("end", [0, -1])
def test_what_lies_on_any_face_of_the_grid_touches_the_border(axis, end):
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1:4, 1:5, 1:6] = 1
    labels[2, 2, 2] = 2
    np.moveaxis(labels, axis, 0)[end, 3, 3] = 2
    segmentation = labelled(labels)
    liver, lesions = measure(segmentation, scan_of(segmentation))
    assert liver.touches_border
    assert sorted(lesion.touches_border for lesion in lesions) == [False, True]


def test_a_scan_without_liver_or_lesion_has_a_defined_report():
    segmentation = labelled(np.zeros((4, 5, 6)))
    liver, lesions = measure(segmentation, scan_of(segmentation))
    assert (liver.volume_ml, liver.mean_hu, liver.touches_border, lesions) == (0.0, None, False, ())
    assert not lesion_instances(segmentation).any()
    assert lesion_instances(segmentation).shape == (4, 5, 6)


def test_another_grid_is_refused():
    segmentation = labelled(np.zeros((4, 5, 6)))
    with pytest.raises(ValueError, match="same grid"):
        measure(segmentation, Volume(np.zeros((4, 5, 6), np.int16), Geometry((4, 5, 6), np.eye(4))))


@pytest.fixture(scope="module")
def phantom():
    return abdomen(2, (64, 56, 24), (5.0, 5.5, 8.0), noise_hu=0, lesions=5)


def turned_origin(phantom, codes):
    return phantom.truth.reoriented(codes).geometry.affine[:3, 3]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_gives_the_same_numbers(phantom, codes):
    expected = measure(phantom.truth, phantom.volume)
    turned = measure(phantom.truth.reoriented(codes), phantom.volume.reoriented(codes))
    assert len(turned.lesions) == 5
    for one, other in zip((expected.liver, *expected.lesions), (turned.liver, *turned.lesions), strict=True):
        for name, value in one.model_dump(exclude={"axial_slice"}).items():
            if value is None:
                assert getattr(other, name) is None, name
            else:
                np.testing.assert_allclose(getattr(other, name), value, atol=1e-6, err_msg=name)
    for lesion in turned.lesions:
        along = next(axis for axis, code in enumerate(codes) if code in "SI")
        ends = np.array(lesion.longest_ends_mm) - turned_origin(phantom, codes)
        steps = phantom.truth.reoriented(codes).geometry.affine[:3, :3]
        np.testing.assert_allclose(np.linalg.solve(steps, ends.T)[along], lesion.axial_slice, atol=1e-6)
    instances = Segmentation((lesion_instances(phantom.truth) == 2).astype(np.uint8), phantom.truth.geometry)
    again = lesion_instances(phantom.truth.reoriented(codes)) == 2
    np.testing.assert_array_equal(instances.reoriented(codes).labels, again)


def test_lesions_of_one_size_are_numbered_alike_in_every_orientation():
    labels = np.ones((12, 10, 8), np.uint8)
    for voxel in ((2, 2, 2), (9, 2, 2), (2, 7, 2), (2, 2, 5), (9, 7, 5)):
        labels[voxel] = 2
    segmentation = labelled(labels)
    expected = [lesion.centroid_mm for lesion in measure(segmentation, scan_of(segmentation)).lesions]
    for codes in ORIENTATIONS:
        turned = segmentation.reoriented(codes)
        found = [lesion.centroid_mm for lesion in measure(turned, scan_of(turned)).lesions]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_phantoms_lesions_are_measured_as_they_were_made():
    phantom = abdomen(0, (128, 110, 60), (2.5, 2.5, 3.0), noise_hu=0)
    measured = measure(phantom.truth, phantom.volume).lesions
    assert len(measured) == 3
    for made in phantom.lesions:
        found = min(measured, key=lambda lesion: np.linalg.norm(np.subtract(lesion.centroid_mm, made.centre_mm)))
        assert found.centroid_mm == pytest.approx(made.centre_mm, abs=1.0)
        assert found.longest_axial_diameter_mm == pytest.approx(2 * max(made.radii_mm[:2]), abs=2.5)
        assert found.perpendicular_diameter_mm == pytest.approx(2 * min(made.radii_mm[:2]), abs=2.5)
        assert found.volume_ml == pytest.approx(4 / 3 * np.pi * np.prod(made.radii_mm) / 1000, rel=0.1)
        assert found.mean_hu == HOUNSFIELD[Tissue.LESION]


def a_report(phantom):
    measured = measure(phantom.truth, phantom.volume)
    network = ModelReport(name="analytic", version="1.0.0", sha256="b" * 64)
    return Report(
        scan=ScanReport(sha256="a" * 64, shape=(64, 56, 24), spacing_mm=(5.0, 5.5, 8.0), orientation="LPS"),
        models={"liver": network, "lesion": network, "crf": network},
        liver=measured.liver,
        lesions=measured.lesions,
        agreement=agree(phantom.truth, phantom.truth),
        quality=Quality(findings=(Finding(code="noise", severity="warn", detail="Noisy."),)),
        timings_s=Timings(read=0.1, total=1.5),
    )


def test_a_report_survives_json(phantom):
    report = a_report(phantom)
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert Report.model_validate(json.loads(json.dumps(report.model_dump(mode="json")))) == report


def test_a_report_has_exactly_the_fields_that_clients_read(phantom):
    report = json.loads(a_report(phantom).model_dump_json())
    assert set(report) == {
        "scan", "models", "liver", "lesions", "lesion_count", "lesion_volume_ml", "lesion_burden", "lesions_split",
        "agreement", "follow_up",
        "quality", "timings_s",
    }  # fmt: skip
    assert set(report["scan"]) == {"sha256", "shape", "spacing_mm", "orientation"}
    assert set(report["models"]) == {"liver", "lesion", "crf"}
    assert set(report["models"]["crf"]) == {"name", "version", "sha256"}
    assert set(report["liver"]) == {"volume_ml", "mean_hu", "touches_border"}
    assert set(report["lesions"][0]) == {
        "id", "volume_ml", "volume_interval_ml", "mean_probability", "longest_axial_diameter_mm",
        "perpendicular_diameter_mm", "axial_slice", "longest_ends_mm", "perpendicular_ends_mm", "centroid_mm",
        "sphericity", "capsule_distance_mm", "mean_hu", "sd_hu", "p5_hu", "median_hu", "p95_hu", "touches_border",
    }  # fmt: skip
    assert set(report["agreement"]) == {"liver", "lesion"}
    assert set(report["timings_s"]) == {"read", "liver", "lesion", "crf", "measure", "write", "total"}


def test_sums_and_shares_follow_from_the_lesions(phantom):
    report = a_report(phantom)
    assert report.lesion_count == 5
    assert report.lesion_volume_ml == pytest.approx(sum(lesion.volume_ml for lesion in report.lesions))
    assert report.lesion_burden == pytest.approx(phantom.truth.lesions.sum() / phantom.truth.liver.sum())


def test_of_more_lesions_than_ids_the_largest_keep_theirs():
    labels = np.ones((120, 120, 40), np.uint8)
    labels[::2, ::2, ::2] = 2  # 72000 lesions of one voxel
    labels[61, 60, 20] = 2  # and two of them joined
    instances = lesion_instances(labelled(labels))
    assert instances.max() == 65535
    assert instances[60, 60, 20] == instances[61, 60, 20] == instances[62, 60, 20] == 1
    assert np.count_nonzero(instances) == 65535 + 2
