"""Two dates of one patient, drawn from formulas with known changes: of each lesion is said what was done to it."""

import itertools
import json

import numpy as np
import pytest
import SimpleITK as sitk

from app.errors import Canceled, InvalidPrior
from app.followup.alignment import Alignment
from app.followup.compare import LEAST_RIGID_DICE, follow_up
from app.followup.distance_map import SPACING_MM, distance_map
from app.followup.estimate import Estimate, change, ratio, total
from app.followup.lesions import measured, within_voxels
from app.followup.matching import LEAST_SHARE, TOLERANCE_MM, match
from app.followup.prior import Prior, read_prior
from app.followup.recist import recist_sum
from app.followup.registration import register
from app.imaging.evidence import Evidence
from app.imaging.nifti import write_labels
from app.imaging.scan import Limits
from app.imaging.volume import Geometry, Segmentation
from tests.livers import grid, liver, moved
from tests.toy_grids import labelled

HERE = grid()
#: Thick slices, other axes, another field of view.
THERE = grid((1.7, 2.0, 5.0), "RAI", (0.0, 10.0, -25.0), (310, 260, 260))
#: A lesion by what becomes of it: (then, now), each a list of (centre, radius).
FATES = {
    "grown": ([((40, 10, 0), 9)], [((40, 10, 0), 15)]),
    "shrunk": ([((-40, 22, 10), 14)], [((-40, 22, 10), 7)]),
    "unchanged": ([((70, -20, -40), 10)], [((70, -20, -40), 10.2)]),
    "gone": ([((20, -30, 5), 11)], []),
    "new": ([], [((75, 30, 20), 9)]),
    "merged": ([((55, -35, 15), 8), ((73, -31, 15), 8)], [((64, -33, 15), (19, 12, 10))]),
    "split": ([((10, 35, -5), (20, 9, 9))], [((-1, 35, -5), 7), ((19, 35, -5), 7.5)]),
}


def quiet(_share):
    pass


def prior_of(segmentation, intervals_ml=None):
    return Prior(segmentation, "0" * 64, None, intervals_ml)


def lesions(side, *fates):
    return [each for fate in fates or FATES for each in FATES[fate][side]]


def still(geometry=None):
    """The alignment of a patient who did not move."""
    geometry = geometry or Geometry((2, 2, 2), np.diag([50.0, 50.0, 50.0, 1.0]))
    return Alignment(np.eye(4), np.zeros((*geometry.shape, 3), np.float32), geometry)


def test_a_patient_who_moved_is_told_what_became_of_each_lesion():
    found = follow_up(liver(THERE, lesions(1), moved), prior_of(liver(HERE, lesions(0))), quiet)
    assert found.comparable
    assert sorted(row.state for row in found.lesions) == sorted(FATES)
    for row in found.lesions:
        for side, parts in enumerate((row.prior, row.current)):
            assert len(parts) == len(FATES[row.state][side])
    # Where it is now, and where what is gone would be: the formula's inverse, found by looking everywhere.
    points = THERE.to_mm(np.moveaxis(np.indices(THERE.shape), 0, -1).reshape(-1, 3))
    was = moved(points)
    for row in found.lesions:
        then, now = FATES[row.state]
        target = np.mean([centre for centre, _ in now or then], axis=0)
        true = points[np.linalg.norm(was - target, axis=1).argmin()]
        assert np.linalg.norm(np.array(row.where_mm) - true) < 6.0
    assert found.registration.dice > 0.95
    assert found.registration.mean_surface_distance_mm < 2.0


def test_what_a_state_says_is_what_the_volumes_say():
    found = follow_up(liver(HERE, lesions(1)), prior_of(liver(HERE, lesions(0))), quiet)
    for row in found.lesions:
        low, high = row.volume_ml.change_interval
        assert row.trend == (None if not row.prior or not row.current else _trend(low, high))
        assert row.volume_ml.change == pytest.approx(row.volume_ml.current - row.volume_ml.prior)
        assert row.volume_ml.current == pytest.approx(sum(each.volume_ml for each in row.current))
    totals = found.totals
    assert totals.lesions_ml.prior == pytest.approx(sum(row.volume_ml.prior for row in found.lesions))
    assert totals.burden.current == pytest.approx(totals.lesions_ml.current / totals.liver_ml.current)


def _trend(low, high):
    return "grown" if low > 0 else "shrunk" if high < 0 else "unchanged"


@pytest.mark.parametrize("orientation", ["LPS", "SAR", "PIR"])
def test_how_files_store_their_axes_changes_nothing_that_is_said(orientation):
    then, now = liver(HERE, lesions(0, "grown", "gone")), liver(THERE, lesions(1, "grown", "gone"), moved)
    expected = follow_up(now, prior_of(then), quiet)
    found = follow_up(now.reoriented(orientation), prior_of(then.reoriented(orientation[::-1])), quiet)
    assert [row.state for row in found.lesions] == [row.state for row in expected.lesions] == ["grown", "gone"]
    for one, other in zip(found.lesions, expected.lesions, strict=True):
        assert one.volume_ml.change == pytest.approx(other.volume_ml.change)
        assert one.volume_ml.change_interval == pytest.approx(other.volume_ml.change_interval)
        assert one.where_mm == pytest.approx(other.where_mm, abs=0.5)


def test_livers_without_lesions_have_no_rows_and_no_sum_but_totals():
    found = follow_up(liver(THERE, (), moved), prior_of(liver(HERE)), quiet)
    assert (found.comparable, found.lesions, found.recist) == (True, (), None)
    assert found.totals.lesions_ml.change == 0
    assert found.totals.lesions_ml.change_percent is None
    assert found.totals.liver_ml.change_interval[0] < 0 < found.totals.liver_ml.change_interval[1]


def test_a_prior_without_a_liver_is_not_compared():
    empty = Segmentation(np.zeros(HERE.shape, np.uint8, order="F"), HERE)
    found = follow_up(liver(HERE, lesions(1)), prior_of(empty), quiet)
    assert (found.comparable, found.obstacle.code) == (False, "prior_without_liver")
    assert (found.lesions, found.totals, found.recist, found.registration) == ((), None, None, None)


def test_a_liver_of_another_shape_is_not_compared():
    block = np.zeros(HERE.shape, np.uint8, order="F")
    block[20:120, 40:55, 15:60] = 1
    found = follow_up(liver(HERE, lesions(1)), prior_of(Segmentation(block, HERE)), quiet)
    assert (found.comparable, found.obstacle.code) == (False, "livers_do_not_fit")
    assert found.registration.dice_rigid < LEAST_RIGID_DICE
    assert (found.lesions, found.totals, found.recist) == ((), None, None)


def test_a_prior_liver_of_one_voxel_is_not_compared():
    speck = np.zeros(HERE.shape, np.uint8, order="F")
    speck[60, 50, 30] = 1
    found = follow_up(liver(HERE), prior_of(Segmentation(speck, HERE)), quiet)
    assert (found.comparable, found.obstacle.code) == (False, "livers_do_not_fit")


def test_threads_change_no_bit_of_a_registration():
    maps = distance_map(liver(THERE, (), moved)), distance_map(liver(HERE))
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    fields = []
    try:
        for threads in (1, 3, 8):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found = register(*maps, quiet)
            fields.append((found.rigid.tobytes(), found.elastic_mm.tobytes()))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert len(set(fields)) == 1


@pytest.mark.parametrize("at", [0.01, 0.3, 0.9])
def test_a_registration_that_is_canceled_ends_there(at):
    maps = distance_map(liver(THERE, (), moved)), distance_map(liver(HERE))
    told = []

    def tell(share):
        told.append(share)
        if share >= at:
            raise Canceled("enough")

    with pytest.raises(Canceled, match="enough"):
        register(*maps, tell)
    assert sum(share >= at for share in told) <= 2
    assert told == sorted(told)


def test_there_and_back_is_the_same_place():
    maps = distance_map(liver(THERE, (), moved)), distance_map(liver(HERE))
    found = register(*maps, quiet)
    points = maps[0].geometry.to_mm(np.argwhere(maps[0].inside)[::97])
    assert np.abs(found.to_current(found.to_prior(points)) - points).max() < 0.1


def test_distances_are_those_to_the_true_surface():
    """Against a ball's, whose distances are known, on an oblique anisotropic grid."""
    geometry = grid((1.5, 2.0, 4.0), "SRA")
    turned = geometry.affine.copy()
    turned[:3, :3] = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ turned[:3, :3]
    geometry = Geometry(geometry.shape, turned)
    middle = geometry.to_mm((np.array(geometry.shape) - 1) / 2)
    points = geometry.to_mm(np.moveaxis(np.indices(geometry.shape), 0, -1))
    ball = np.linalg.norm(points - middle, axis=-1) < 60
    found = distance_map(Segmentation(np.asfortranarray(ball.astype(np.uint8)), geometry))
    centres = found.geometry.to_mm(np.moveaxis(np.indices(found.geometry.shape), 0, -1))
    true = np.minimum(np.linalg.norm(centres - middle, axis=-1) - 60, 30.0)
    assert np.abs(found.signed_mm - true).max() < SPACING_MM
    assert np.linalg.norm(found.centre_mm - middle) < 0.5


# --- which lesions are the same, with a patient who lies still


def groups_of(then, now, alignment=None):
    prior, current = measured(then), measured(now)
    return match(prior, current, alignment or still()), prior, current


def pairs(groups):
    return sorted((group.prior, group.current, group.by) for group in groups)


def test_lesions_that_overlap_in_part_are_one_from_the_least_share_on():
    boxes = np.zeros((40, 12, 12), np.uint8)
    boxes[1:-1, 1:-1, 1:-1] = 1
    for shared in range(6):
        then, now = boxes.copy(), boxes.copy()
        then[5:15, 3:9, 3:9] = 2
        now[15 - shared : 25 - shared, 3:9, 3:9] = 2
        geometry = Geometry(boxes.shape, np.diag([3.0, 1.0, 1.0, 1.0]))
        groups, _, _ = groups_of(labelled(then, geometry), labelled(now, geometry))
        same = shared / 10 >= LEAST_SHARE
        assert pairs(groups) == ([((1,), (1,), "overlap")] if same else [((), (1,), None), ((1,), (), None)])


def test_a_lesion_inside_one_that_is_many_times_as_large_is_the_same():
    small, large = liver(HERE, [((44, 10, 0), 5)]), liver(HERE, [((40, 10, 0), 16)])
    for then, now in ((small, large), (large, small)):
        groups, _, _ = groups_of(then, now)
        assert pairs(groups) == [((1,), (1,), "overlap")]


def test_what_lies_apart_is_the_same_within_the_tolerance_and_the_nearest_first():
    then = liver(HERE, [((40, 10, 0), 4), ((40, -35, 0), 4)])
    for shift, by in ((TOLERANCE_MM - 1, "distance"), (TOLERANCE_MM + 1, None)):
        groups, _, _ = groups_of(then, liver(HERE, [((40, 10 + shift, 0), 4), ((40, 30 + shift, 0), 4)]))
        assert [group.by for group in groups if group.current].count(by) == (1 if by else 2)
    groups, prior, current = groups_of(then, liver(HERE, [((47, 10, 0), 3.2), ((48, 16, 0), 3.2)]))
    nearest = next(group for group in groups if group.by)
    apart = [np.linalg.norm(np.subtract(prior.lesions[nearest.prior[0] - 1].centroid_mm, each.centroid_mm))
             for each in current.lesions]  # fmt: skip
    assert apart[nearest.current[0] - 1] == min(apart)
    assert nearest.distance_mm == pytest.approx(min(apart), abs=1e-6)


def test_two_that_became_two_others_are_one_group():
    then = liver(HERE, [((30, 0, 0), (22, 6, 9)), ((30, 14, 0), (22, 6, 9))])
    now = liver(HERE, [((22, 7, 0), (6, 13, 9)), ((38, 7, 0), (6, 13, 9))])
    groups, _, _ = groups_of(then, now)
    assert pairs(groups) == [((1, 2), (1, 2), "overlap")]


def test_a_lesion_beyond_the_end_of_the_other_scan_is_neither_new_nor_gone():
    low = grid(centre_mm=(10.0, 0.0, -60.0), room_mm=(290, 220, 110))
    whole = liver(HERE, [((40, 10, 40), 8), ((60, -20, -40), 8)])
    groups, _, _ = groups_of(whole, liver(low, [((60, -20, -40), 8)]))
    assert {(bool(group.prior), bool(group.current), group.covered) for group in groups} == {
        (True, True, True), (True, False, False),
    }  # fmt: skip
    groups, _, _ = groups_of(liver(low, [((60, -20, -40), 8)]), whole)
    assert [group.covered for group in groups if not group.prior] == [False]


def test_every_lesion_is_in_one_group_whatever_there_is():
    rng = np.random.default_rng(4)
    for _ in range(20):
        then, now = (labelled(np.where(rng.random((14, 15, 9)) < 0.93, 1, 2)) for _ in range(2))
        groups, prior, current = groups_of(then, now, still())
        assert sorted(itertools.chain(*(group.prior for group in groups))) == [each.id for each in prior.lesions]
        assert sorted(itertools.chain(*(group.current for group in groups))) == [each.id for each in current.lesions]


# --- how large, and how sure


def test_a_volume_is_known_but_for_half_of_the_voxels_along_its_edge():
    mask = np.zeros((9, 9, 9), bool)
    mask[2:7, 2:7, 2:7] = True
    found = within_voxels(mask, 0.5)
    assert found == Estimate(62.5, (125 + 27) / 4, (125 + 275) / 4)
    assert within_voxels(np.ones((1, 1, 1), bool), 2.0) == Estimate(2.0, 1.0, 2.0 * (1 + 7) / 2)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (3.0, 2.0, 4.0)])
def test_a_ball_that_did_not_change_is_within_the_interval_wherever_it_lies_on_the_grid(spacing_mm):
    rng = np.random.default_rng(1)
    shape = tuple(int(40 / each) for each in spacing_mm)
    affine = np.diag([*spacing_mm, 1.0])
    geometry = Geometry(shape, affine)
    points = geometry.to_mm(np.moveaxis(np.indices(shape), 0, -1))
    found = []
    for centre in rng.uniform(18, 22, (12, 3)):
        inside = np.linalg.norm(points - centre, axis=-1) < 9
        found.append(measured(labelled(1 + inside.astype(np.uint8), geometry)).lesions[0])
    true_ml = 4 / 3 * np.pi * 9**3 / 1000
    assert all(each.volume_ml.low < true_ml < each.volume_ml.high for each in found)
    assert all(each.diameter_mm.low <= each.diameter_mm.value <= each.diameter_mm.high for each in found)
    for one, other in itertools.combinations(found, 2):
        assert change(one.volume_ml, other.volume_ml).direction == 0


def test_an_unsure_network_widens_the_interval_and_a_sure_one_does_not_narrow_it():
    scan = liver(HERE, [((40, 10, 0), 10)])
    plain = measured(scan).lesions[0]
    probability = np.where(scan.labels == 2, 0.55, np.where(scan.labels == 1, 0.3, 0.0)).astype(np.float32)
    whole = Evidence(probability, type(scan.box)((0, 0, 0), HERE.shape), 0.5)
    unsure = measured(Segmentation(scan.labels, HERE, whole)).lesions[0]
    assert unsure.volume_ml.low == 0.0
    assert unsure.volume_ml.high > 1000
    sharp = Evidence((scan.labels == 2).astype(np.float32), whole.box, 0.5)
    assert measured(Segmentation(scan.labels, HERE, sharp)).lesions[0] == plain


def test_intervals_add_up_within_a_scan_and_as_squares_between_two():
    one, other = Estimate(10.0, 7.0, 14.0), Estimate(20.0, 16.0, 25.0)
    assert total([one, other]) == Estimate(30.0, 23.0, 39.0)
    assert ratio(one, other) == Estimate(0.5, 7 / 25, 14 / 16)
    found = change(one, other)
    assert found.change_interval == pytest.approx((10 - np.hypot(4, 4), 10 + np.hypot(5, 3)))
    assert found.change_percent == pytest.approx(100)
    assert found.direction == 1
    assert change(other, one).direction == -1
    assert change(one, one).direction == 0


def test_percent_are_as_uncertain_as_drawing_both_dates_at_random_shows():
    rng = np.random.default_rng(0)
    prior, current = Estimate(40.0, 38.0, 42.0), Estimate(55.0, 52.0, 58.0)
    drawn = 100 * (rng.normal(55, 3, 200_000) / rng.normal(40, 2, 200_000) - 1)
    low, high = change(prior, current).change_percent_interval
    assert (high - low) / 2 == pytest.approx(drawn.std(), rel=0.03)


# --- the sum


def sums(then, now):
    groups, prior, current = groups_of(then, now)
    return recist_sum(prior, current, groups), prior, current


def test_the_sum_is_of_the_two_largest_then_and_of_the_same_now():
    then = liver(HERE, [((40, 10, 0), 12), ((70, -20, -40), 10), ((-40, 22, 10), 8)])
    now = liver(HERE, [((40, 10, 0), 9), ((70, -20, -40), 6), ((-40, 22, 10), 16)])
    found, prior, current = sums(then, now)
    by_size = sorted(prior.lesions, key=lambda each: -each.diameter_mm.value)
    assert [target.prior_id for target in found.targets] == [each.id for each in by_size[:2]]
    assert found.sum_mm.prior == pytest.approx(sum(each.diameter_mm.value for each in by_size[:2]))
    ids = [number for target in found.targets for number in target.current_ids]
    assert found.sum_mm.current == pytest.approx(sum(current.lesions[n - 1].diameter_mm.value for n in ids))
    assert found.sum_mm.prior == pytest.approx(44, abs=3)
    assert found.sum_mm.current == pytest.approx(30, abs=3)
    low, high = found.sum_mm.change_percent_interval
    assert low < 100 * (30 / 44 - 1) < high


def test_a_target_that_is_gone_counts_nothing_and_what_is_new_is_not_added():
    found, _, _ = sums(liver(HERE, [((40, 10, 0), 12)]), liver(HERE, [((-40, 22, 10), 10)]))
    assert (found.sum_mm.current, found.sum_mm.change_percent, found.new_lesions) == (0, -100, 1)


def test_parts_of_a_target_are_added_and_targets_that_merged_count_once():
    found, _, current = sums(liver(HERE, lesions(0, "split")), liver(HERE, lesions(1, "split")))
    assert found.sum_mm.current == pytest.approx(sum(each.diameter_mm.value for each in current.lesions))
    found, _, current = sums(liver(HERE, lesions(0, "merged")), liver(HERE, lesions(1, "merged")))
    assert len(found.targets) == 2
    assert found.sum_mm.current == pytest.approx(current.lesions[0].diameter_mm.value)


def test_what_is_too_small_for_its_slices_or_cut_off_is_no_target():
    assert sums(liver(HERE, [((40, 10, 0), 4)]), liver(HERE))[0] is None
    thick = grid((2.0, 2.0, 8.0))
    assert sums(liver(thick, [((40, 10, 0), 7)]), liver(thick))[0] is None
    assert sums(liver(thick, [((40, 10, 0), 10)]), liver(thick))[0].least_measurable_mm == 16.0
    low = grid(centre_mm=(10.0, 0.0, -60.0), room_mm=(290, 220, 110))
    assert sums(liver(low, [((40, 10, -6), 15)]), liver(low))[0] is None


def test_a_target_known_by_nearness_alone_may_be_gone():
    found, _, current = sums(liver(HERE, [((40, 10, 0), 6)]), liver(HERE, [((40, 10, 9.5), (7, 7, 3.1))]))
    assert found.targets[0].matched_by == "distance"
    assert found.sum_mm.current_interval[0] == 0.0
    assert found.sum_mm.current == current.lesions[0].diameter_mm.value


def test_without_the_place_of_a_target_in_the_scan_there_is_no_sum():
    low = grid(centre_mm=(10.0, 0.0, -60.0), room_mm=(290, 220, 110))
    assert sums(liver(HERE, [((40, 10, 40), 8)]), liver(low))[0] is None


# --- the files of a prior


@pytest.fixture
def files(tmp_path):
    scan = liver(HERE, [((40, 10, 0), 10), ((70, -20, -40), 8)])
    write_labels(tmp_path / "labels.nii.gz", scan.labels, HERE)
    rows = [{"id": each.id, "volume_ml": each.volume_ml.value, "volume_interval_ml": [0.5 * each.volume_ml.value, 30]}
            for each in measured(scan).lesions]  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps({"lesions": rows, "lesions_split": False, "more": 1}))
    return tmp_path


def read(folder, *, report=True, split=False):
    beside = folder / "report.json" if report else None
    return read_prior(folder / "labels.nii.gz", beside, Limits(), split_lesions=split)


def test_the_intervals_of_a_prior_come_from_the_report_beside_it(files):
    prior = read(files)
    then = measured(prior.segmentation, prior.intervals_ml)
    assert [each.volume_ml.high for each in then.lesions] == [30.0, 30.0]
    assert read(files, report=False).intervals_ml is None
    assert read(files, report=False, split=True).segmentation.split_lesions


@pytest.mark.parametrize("change_it", [
    lambda said: said["lesions"].pop(),
    lambda said: said["lesions"][0].update(volume_ml=1.0),
    lambda said: said.pop("lesions"),
])  # fmt: skip
def test_a_report_of_other_lesions_is_refused(files, change_it):
    said = json.loads((files / "report.json").read_text())
    change_it(said)
    (files / "report.json").write_text(json.dumps(said))
    with pytest.raises(InvalidPrior, match="report beside"):
        read(files)


def test_labels_that_are_none_are_refused_with_what_to_mend(files):
    labels = np.full(HERE.shape, 3, np.uint8, order="F")
    write_labels(files / "labels.nii.gz", labels, HERE)
    with pytest.raises(InvalidPrior, match=r"0 .background., 1 .liver. and 2 .lesion. only; it also holds 3"):
        read(files)
    (files / "labels.nii.gz").write_bytes(b"no labels at all")
    with pytest.raises(InvalidPrior, match="cannot be read"):
        read(files)
