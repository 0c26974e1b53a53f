"""The whole cascade on blocks of known tissue: what comes out is compared voxel by voxel with what was built."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from app.errors import Canceled, NoLiver
from app.imaging.volume import Geometry, Segmentation, Volume
from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.network import Runtime
from app.report import measure
from tests.analytic_networks import (
    DOUBTFUL,
    SURE,
    contrary_graph,
    crf_graph,
    growing_graph,
    lesion_graph,
    liver_graph,
    neighbour_graph,
    phantom_models,
    ruler_graph,
    with_card,
    write_models,
)

SHAPE, SPACING_MM = (44, 40, 15), (2.0, 3.0, 5.0)
BACKGROUND_HU, LIVER_HU, DOUBTFUL_HU, LESION_HU, DOUBTFUL_LESION_HU = 0, 100, 115, 40, 55
DOUBTFUL_RANGE = (110, 120)
ORIENTATIONS = [
    "".join(pair[sign] for pair, sign in zip(axes, signs, strict=True))
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for signs in itertools.product((0, 1), repeat=3)
]


@dataclass(frozen=True)
class Blocks:
    """A scan in LPS storage: anisotropic, asymmetric, its liver across the midline and in the last slice."""

    volume: Volume
    liver: np.ndarray  # sure and doubtful, with the lesions
    doubtful: np.ndarray
    lesions: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return np.where(self.lesions, 2, np.where(self.liver, 1, 0)).astype(np.uint8)


def blocks(affine: np.ndarray | None = None) -> Blocks:
    hounsfield = np.full(SHAPE, BACKGROUND_HU, np.int16, order="F")
    liver = np.zeros(SHAPE, bool)
    liver[7:31, 8:27, 5:15] = True
    hounsfield[liver] = LIVER_HU
    hounsfield[7:31, 18:21, 5:15] = DOUBTFUL_HU  # two thirds of the liver lie before it, one behind
    hounsfield[7:12, 8:11, 12:15] = LESION_HU  # in a corner of the liver, and in the last slice
    hounsfield[25:28, 14:17, 6:9] = LESION_HU
    hounsfield[16:20, 22:25, 9:11] = DOUBTFUL_LESION_HU
    lesions = liver & ((hounsfield == LESION_HU) | (hounsfield == DOUBTFUL_LESION_HU))
    hounsfield[33:36, 10:14, 7:10] = LESION_HU  # looks like a lesion, beside the liver
    hounsfield[37:43, 30:38, 6:14] = LIVER_HU  # looks like liver: a spleen on the left
    if affine is None:
        affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
        affine[:3, 3] = [51.5, 40.25, -700.0]
    return Blocks(Volume(hounsfield, Geometry(SHAPE, affine)), liver, hounsfield == DOUBTFUL_HU, lesions)


LIVER = liver_graph((LESION_HU, LIVER_HU), DOUBTFUL_RANGE)
LESION = lesion_graph((LESION_HU, LESION_HU), (DOUBTFUL_LESION_HU, DOUBTFUL_LESION_HU))


def segment(volume: Volume, folder, *, runtime=None, on_progress=None, **graphs: bytes) -> Segmentation:
    runtime = runtime or Runtime(threads=1, batch=4)
    models = write_models(folder, **({"liver": LIVER, "lesion": LESION} | graphs))
    cascade = Cascade(load_networks(models, runtime), runtime)
    return cascade.segment(volume, on_progress or (lambda *_: None))


def test_every_voxel_of_the_blocks_is_labelled_as_built(tmp_path):
    scan = blocks()
    assert np.array_equal(segment(scan.volume, tmp_path).labels, scan.labels)


@pytest.mark.parametrize("refined", [("liver", "lesion"), ("liver",), ()])
def test_networks_that_say_what_they_grow_from_give_the_same_labels(tmp_path, refined):
    scan = blocks()
    exact = np.where(scan.liver & (scan.volume.voxels == LESION_HU), 2, scan.labels > 0).astype(np.uint8)
    growing = {
        "liver": growing_graph("liver", (LESION_HU, DOUBTFUL_HU)),
        "lesion": growing_graph("lesion", (LESION_HU, LESION_HU)),
    }
    found = segment(scan.volume, tmp_path, crf=crf_graph(refined), **growing)
    assert np.array_equal(found.labels, exact)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_change_a_label(tmp_path, threads):
    scan = blocks()
    found = segment(scan.volume, tmp_path, runtime=Runtime(threads=threads, batch=2))
    assert np.array_equal(found.labels, scan.labels)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_scan_stored_in_any_orientation_gets_the_same_labels_turned(tmp_path, codes):
    scan = blocks()
    turned = scan.volume.reoriented(codes)
    expected = Segmentation(scan.labels, scan.volume.geometry).reoriented(codes)
    found = segment(turned, tmp_path)
    assert np.array_equal(found.labels, expected.labels)
    assert found.geometry == turned.geometry


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAL"])
def test_a_network_blind_on_the_left_misses_the_patients_left(tmp_path, codes):
    scan = blocks()
    seen = np.zeros(SHAPE, bool)
    seen[: SHAPE[0] // 2] = True
    blind = liver_graph((LESION_HU, LIVER_HU), DOUBTFUL_RANGE, blind_on_the_left=True)
    found = segment(scan.volume.reoriented(codes), tmp_path, liver=blind)
    assert np.array_equal(found.reoriented("LPS").labels, np.where(seen, scan.labels, 0))


@pytest.mark.parametrize("codes", ["LPS", "SRA", "PIL"])
@pytest.mark.parametrize("degrees", [1, 20, 44, 45, 46])
def test_an_oblique_scan_gets_its_labels_on_its_own_grid(tmp_path, degrees, codes):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    tilt = np.array([[c, -s, 0, 3 / 7], [s, c, 0, -40.1], [0, 0, 1, 1 / 3], [0, 0, 0, 1]])
    scan = blocks(tilt @ np.diag([-2.0, -3.0, 5.0, 1.0]))
    turned = scan.volume.reoriented(codes)
    found = segment(turned, tmp_path)
    assert found.geometry == turned.geometry
    expected = Segmentation(scan.labels, scan.volume.geometry).reoriented(codes)
    assert np.array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("seed", range(6))
def test_the_grid_comes_back_to_its_last_digit(tmp_path, seed):
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(generator.uniform(2, 5, 3))
    affine[:3, 3] = generator.normal(size=3) * 300
    volume = Volume(np.full(SHAPE, LIVER_HU, np.int16), Geometry(SHAPE, affine))
    assert segment(volume, tmp_path).geometry == volume.geometry


def test_a_sloppy_lesion_network_paints_nothing_outside_the_liver(tmp_path):
    scan = blocks()
    sloppy = lesion_graph((BACKGROUND_HU, LESION_HU), (DOUBTFUL_LESION_HU,) * 2, sloppy=True)
    assert np.array_equal(segment(scan.volume, tmp_path, lesion=sloppy).labels, scan.labels)


def test_the_lesion_network_is_shown_the_liver_of_its_region(tmp_path):
    scan = blocks()
    found = segment(scan.volume, tmp_path, lesion=contrary_graph())
    assert np.array_equal(found.labels, scan.liver.astype(np.uint8))


@pytest.mark.parametrize("batch", [1, 2, 7, 8, 14, 15, 100])
def test_the_batch_size_does_not_change_a_label(tmp_path, batch):
    scan = blocks()
    found = segment(scan.volume, tmp_path, runtime=Runtime(threads=1, batch=batch))
    assert np.array_equal(found.labels, scan.labels)


def test_the_thresholds_are_those_of_the_cards(tmp_path):
    scan = blocks()
    stricter = lesion_graph((LESION_HU,) * 2, (DOUBTFUL_LESION_HU,) * 2, threshold="0.6")
    found = segment(scan.volume, tmp_path / "a", lesion=stricter)
    doubtful = (scan.volume.voxels == DOUBTFUL_LESION_HU) & scan.liver
    assert np.array_equal(found.labels, np.where(doubtful, 1, scan.labels))
    stricter = liver_graph((LESION_HU, LIVER_HU), DOUBTFUL_RANGE, threshold="0.6")
    found = segment(scan.volume, tmp_path / "b", liver=stricter)
    front = scan.liver & ~scan.doubtful
    front[:, 20:] = False  # the doubtful slab parts the liver: its larger piece stays
    assert np.array_equal(found.labels, np.where(front, scan.labels, 0))


def test_a_lesion_that_nowhere_reaches_the_peak_threshold_is_none_and_one_that_does_keeps_its_doubtful_rim(tmp_path):
    scan = blocks()
    hounsfield = scan.volume.voxels.copy(order="F")
    hounsfield[28:30, 14:17, 6:9] = DOUBTFUL_LESION_HU  # beside a sure one
    strict = with_card(LESION, peak_threshold="0.9")
    found = segment(Volume(hounsfield, scan.volume.geometry), tmp_path, lesion=strict)
    expected = scan.labels
    expected[28:30, 14:17, 6:9] = 2
    expected[16:20, 22:25, 9:11] = 1  # doubtful, and alone
    assert np.array_equal(found.labels, expected)


@pytest.mark.parametrize("refined", [("liver", "lesion"), ("lesion",), ()])
def test_a_voxel_belongs_if_its_probability_is_the_threshold_itself(tmp_path, refined):
    scan = blocks()
    exact = {
        "liver": liver_graph((LESION_HU, LIVER_HU), DOUBTFUL_RANGE, threshold="0.45"),
        "lesion": lesion_graph((LESION_HU,) * 2, (DOUBTFUL_LESION_HU,) * 2, threshold="0.45"),
    }
    found = segment(scan.volume, tmp_path, crf=crf_graph(refined), **exact)
    assert np.array_equal(found.labels, scan.labels)


@pytest.mark.parametrize("side", range(4))
def test_the_region_leaves_the_margin_in_mm_on_every_side(tmp_path, side):
    scan = blocks()
    # 10 mm are 4 rows of 3 mm and 5 columns of 2 mm: so far from the edge of the region the liver begins
    widths = [4, 4, 5, 5]
    fitting = ruler_graph(tuple(widths[:2]), tuple(widths[2:]))
    assert not segment(scan.volume, tmp_path / "fits", lesion=fitting).lesions.any()
    widths[side] += 1
    touching = ruler_graph(tuple(widths[:2]), tuple(widths[2:]))
    lesions = segment(scan.volume, tmp_path / "touches", lesion=touching).lesions
    expected = np.zeros(SHAPE, bool)
    plane = [(slice(None), 8), (slice(None), 26), (7,), (30,)][side]
    expected[plane] = scan.liver[plane]
    assert np.array_equal(lesions, expected)


def test_the_region_reaches_the_margin_below_the_liver_and_ends_with_the_scan(tmp_path):
    calls = []
    runtime = Runtime(threads=1, batch=1)
    segment(blocks().volume, tmp_path, runtime=runtime, on_progress=lambda *call: calls.append(call))
    # the liver fills slices 5 to 14 of 15, and 10 mm are 2 slices
    assert sum(stage == "lesion" for stage, _ in calls) == 12


@pytest.mark.parametrize("margin_mm", ["0", "0.1", "500"])
def test_the_liver_is_whole_whatever_the_margin(tmp_path, margin_mm):
    scan = blocks()
    tight = lesion_graph((LESION_HU,) * 2, (DOUBTFUL_LESION_HU,) * 2, roi_margin_mm=margin_mm)
    assert np.array_equal(segment(scan.volume, tmp_path, lesion=tight).labels, scan.labels)


def test_a_liver_that_fills_the_scan_is_labelled_to_its_last_voxel(tmp_path):
    volume = Volume(np.full(SHAPE, LIVER_HU, np.int16), blocks().volume.geometry)
    assert (segment(volume, tmp_path).labels == 1).all()


def test_the_crf_sees_the_voxels_it_refines_and_the_spacing_in_their_order(tmp_path):
    scan = blocks()
    crf = crf_graph(only_hu=(LESION_HU, DOUBTFUL_HU), only_spacing_mm=(5.0, 3.0, 2.0))
    assert np.array_equal(segment(scan.volume, tmp_path, crf=crf).labels, scan.labels)


def test_a_liver_that_the_crf_parts_keeps_its_larger_piece(tmp_path):
    scan = blocks()
    crf = crf_graph(only_hu=(LIVER_HU, LIVER_HU))
    front = scan.volume.voxels == LIVER_HU
    front[:, 18:] = front[31:] = False
    assert np.array_equal(segment(scan.volume, tmp_path, crf=crf).labels, front.astype(np.uint8))


def test_the_crf_refines_what_its_card_lists_and_nothing_else(tmp_path):
    scan = blocks()
    crf = crf_graph(("lesion",), only_hu=(DOUBTFUL_LESION_HU,) * 2)
    found = segment(scan.volume, tmp_path / "lesion", crf=crf)
    certain = scan.lesions & (scan.volume.voxels == LESION_HU)
    assert np.array_equal(found.labels, np.where(certain, 1, scan.labels))
    nothing = crf_graph((), only_hu=(-1, -1))
    assert np.array_equal(segment(scan.volume, tmp_path / "none", crf=nothing).labels, scan.labels)


def test_without_a_crf_backend_the_crf_changes_nothing(tmp_path):
    scan = blocks()
    runtime = Runtime(threads=1, crf_backend="none")
    found = segment(scan.volume, tmp_path, crf=crf_graph(only_hu=(-1, -1)), runtime=runtime)
    assert np.array_equal(found.labels, scan.labels)


def test_a_scan_without_a_liver_is_refused(tmp_path):
    empty = Volume(np.zeros(SHAPE, np.int16), blocks().volume.geometry)
    with pytest.raises(NoLiver, match=r"0\.0 ml"):
        segment(empty, tmp_path)


@pytest.mark.parametrize(("slices", "accepted"), [(6, False), (7, True)])
def test_a_liver_is_at_least_20_ml(tmp_path, slices, accepted):
    voxels = np.zeros(SHAPE, np.int16)
    voxels[10:20, 10:20, :slices] = LIVER_HU  # 3 ml a slice
    volume = Volume(voxels, blocks().volume.geometry)
    if accepted:
        assert segment(volume, tmp_path).liver.sum() == 100 * slices
    else:
        with pytest.raises(NoLiver):
            segment(volume, tmp_path)


def test_a_liver_that_the_crf_removes_is_no_liver(tmp_path):
    with pytest.raises(NoLiver):
        segment(blocks().volume, tmp_path, crf=crf_graph(only_hu=(-1, -1)))


def test_progress_is_told_after_every_batch_and_each_stage_ends_at_one(tmp_path):
    calls: list[tuple[str, float]] = []
    segment(blocks().volume, tmp_path, on_progress=lambda stage, fraction: calls.append((stage, fraction)))
    assert [stage for stage, _ in itertools.groupby(calls, lambda call: call[0])] == ["liver", "lesion", "crf"]
    assert [fraction for stage, fraction in calls if stage == "liver"] == [4 / 15, 8 / 15, 12 / 15, 1.0]
    for stage in ("liver", "lesion", "crf"):
        fractions = [fraction for name, fraction in calls if name == stage]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0


@pytest.mark.parametrize("stage", ["liver", "lesion", "crf"])
def test_a_job_canceled_in_any_stage_ends_there(tmp_path, stage):
    def cancel(now, fraction):
        if now == stage:
            raise Canceled("Canceled.")

    with pytest.raises(Canceled):
        segment(blocks().volume, tmp_path, on_progress=cancel)


@pytest.mark.parametrize("codes", ["LPS", "RIA"])
def test_the_synthetic_abdomen_is_segmented_exactly(tmp_path, codes):
    from training.phantom import abdomen

    phantom = abdomen(shape=(96, 80, 36), spacing_mm=(4.0, 4.0, 5.0), noise_hu=0)
    runtime = Runtime(threads=1)
    cascade = Cascade(load_networks(phantom_models(tmp_path), runtime), runtime)
    found = cascade.segment(phantom.volume.reoriented(codes), lambda *_: None).reoriented("LPS")
    assert np.array_equal(found.labels, phantom.truth.reoriented("LPS").labels)
    assert found.lesions.any()


def test_a_lesion_network_is_told_how_far_apart_slices_are(tmp_path):
    scan = blocks()
    found = segment(scan.volume, tmp_path, lesion=neighbour_graph((LESION_HU, LESION_HU), SPACING_MM[2] + 0.5))
    dark = scan.volume.voxels == LESION_HU
    seen = dark.copy()
    seen[:, :, 1:] |= dark[:, :, :-1]
    seen[:, :, :-1] |= dark[:, :, 1:]
    assert np.array_equal(found.lesions, seen & scan.liver)


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_the_probabilities_behind_the_lesions_come_along_on_the_grid_that_came_in(tmp_path, codes):
    scan = blocks()
    found = segment(scan.volume.reoriented(codes), tmp_path)
    lesions = measure(found, scan.volume.reoriented(codes)).lesions
    assert len(lesions) == 3
    for lesion in lesions:
        doubtful = lesion.mean_hu == DOUBTFUL_LESION_HU
        assert lesion.mean_probability == pytest.approx(DOUBTFUL if doubtful else SURE)
        low, high = lesion.volume_interval_ml
        assert (low, high) == pytest.approx((0.0 if doubtful else lesion.volume_ml, lesion.volume_ml))
