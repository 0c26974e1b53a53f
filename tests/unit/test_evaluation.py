"""Which scan goes with which reference, and what many scores come to."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from app.agreement import agree
from app.errors import InvalidRequest
from app.evaluation.cases import find_cases
from app.evaluation.page import evaluation_page, worst
from app.evaluation.score import Score
from app.evaluation.summary import _estimate, _ratio, summarise
from app.evaluation.tables import cases_csv, lesions_csv
from app.imaging.nifti import write_volume
from app.imaging.volume import Geometry, Volume
from tests.toy_grids import labelled

# Which scan goes with which reference


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"looked at later")
    return folder


def scan(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros((4, 4, 4), np.int16, order="F")
    write_volume(path, Volume(voxels, Geometry((4, 4, 4), np.diag([-1.0, -1.0, 2.0, 1.0]))))
    return path


def pairs(folder: Path, references=None, results=None) -> dict[str, tuple]:
    def below(path):
        return None if path is None else str(path.relative_to(folder))

    cases = find_cases(folder, references, results, folder / "out")
    return {case.name: (below(case.scan), below(case.reference), below(case.labels)) for case in cases}


def test_references_beside_the_scans_are_found_in_each_layout(tmp_path):
    files(tmp_path, "lits/volume-7.nii", "lits/segmentation-7.nii.gz", "lits/volume-8.nii")
    files(tmp_path, "msd/imagesTr/liver_1.nii.gz", "msd/labelsTr/liver_1.nii.gz", "msd/imagesTs/liver_2.nii.gz")
    files(tmp_path, "nnunet/imagesTr/a_0000.nii.gz", "nnunet/labelsTr/a.nii.gz")
    files(tmp_path, "own/p1/ct.nii.gz", "own/p1/labels.nii.gz", "own/p2/ct.nii.gz", "own/p1/notes.txt")
    files(tmp_path, "plain/images/x.nii", "plain/labels/x.nii")
    assert pairs(tmp_path) == {
        "lits/volume-7": ("lits/volume-7.nii", "lits/segmentation-7.nii.gz", None),
        "msd/imagesTr/liver_1": ("msd/imagesTr/liver_1.nii.gz", "msd/labelsTr/liver_1.nii.gz", None),
        "nnunet/imagesTr/a_0000": ("nnunet/imagesTr/a_0000.nii.gz", "nnunet/labelsTr/a.nii.gz", None),
        "own/p1/ct": ("own/p1/ct.nii.gz", "own/p1/labels.nii.gz", None),
        "plain/images/x": ("plain/images/x.nii", "plain/labels/x.nii", None),
    }


def test_with_a_folder_of_references_every_scan_is_a_case_also_without_one(tmp_path):
    scan(tmp_path / "in/a.nii.gz"), scan(tmp_path / "in/deep/b.nii.gz"), scan(tmp_path / "in/c_0000.nii.gz")
    files(tmp_path, "in/readme.txt", "in/truth/a.nii.gz", "in/truth/c.nii")
    found = pairs(tmp_path / "in", tmp_path / "in/truth")
    assert found == {
        "a": ("a.nii.gz", "truth/a.nii.gz", None),
        "c_0000": ("c_0000.nii.gz", "truth/c.nii", None),
        "deep/b": ("deep/b.nii.gz", None, None),
    }


def test_a_references_folder_that_is_the_scans_own_means_beside_them(tmp_path):
    files(tmp_path, "volume-1.nii", "segmentation-1.nii")
    assert list(pairs(tmp_path, tmp_path)) == ["volume-1"]


def test_results_are_found_as_this_program_and_as_others_write_them(tmp_path):
    for n in (1, 2, 3):
        files(tmp_path, f"volume-{n}.nii", f"segmentation-{n}.nii")
    files(tmp_path, "made/volume-1/labels.nii.gz", "made/cases/volume-2/labels.nii.gz", "made/volume-3.nii.gz")
    found = pairs(tmp_path, None, tmp_path / "made")
    assert [labels for _, _, labels in found.values()] == [
        "made/volume-1/labels.nii.gz",
        "made/cases/volume-2/labels.nii.gz",
        "made/volume-3.nii.gz",
    ]


def test_what_was_written_before_is_no_scan(tmp_path):
    files(tmp_path, "volume-1.nii", "segmentation-1.nii", "out/cases/x/ct.nii.gz", "out/cases/x/labels.nii.gz")
    assert list(pairs(tmp_path)) == ["volume-1"]


def test_a_folder_with_nothing_to_evaluate_is_told_what_is_expected(tmp_path):
    with pytest.raises(InvalidRequest, match="volume-N"):
        find_cases(tmp_path, None, None, tmp_path / "out")
    files(tmp_path, "volume-1.nii", "volume-1.nii.gz", "segmentation-1.nii")
    with pytest.raises(InvalidRequest, match="same name"):
        find_cases(tmp_path, None, None, tmp_path / "out")


# What many scores come to

RNG = np.random.default_rng(11)


def a_score(name, labels, true, status="scored", geometry=None):
    agreement = agree(labelled(labels, geometry), labelled(true, geometry))
    return Score(name=name, status=status, agreement=agreement, seconds=1.0, key="")


def masks(lesions, true_lesions):
    """A liver of one block, with some of its slabs as lesions; the reference's liver is a slab larger."""
    labels, true = np.zeros((2, 24, 10, 8), np.uint8)
    labels[2:20], true[2:21] = 1, 1
    for array, slabs in ((labels, lesions), (true, true_lesions)):
        for first, end in slabs:
            array[first:end, 2:6, 2:5] = 2
    return labels, true


PAIRS = [
    masks([(3, 5), (8, 10)], [(3, 6), (12, 14)]),
    masks([(4, 9)], [(4, 6), (7, 10)]),
    masks([(5, 7)], []),
    masks([], []),
    masks([], [(3, 18)]),
]
SCORES = [a_score(f"case {n}", *pair) for n, pair in enumerate(PAIRS)]
FAILED = Score(name="broken", status="failed", code="corrupt_file", detail="Cut off.", seconds=0.1, key="")


def dice(mask, true):
    return 2 * (mask & true).sum() / (mask.sum() + true.sum())


def test_means_are_over_the_cases_that_have_what_is_measured():
    summary = summarise([*SCORES, FAILED])
    assert (summary.cases, summary.scored, summary.no_answer, summary.failed) == (6, 5, 0, 1)
    livers = [dice(labels > 0, true > 0) for labels, true in PAIRS]
    lesions = [dice(labels == 2, true == 2) for labels, true in PAIRS if (true == 2).any()]
    assert (summary.liver["dice"].n, summary.lesion["dice"].n, summary.lesion["assd_mm"].n) == (5, 3, 2)
    assert summary.liver["dice"].value == pytest.approx(np.mean(livers))
    assert summary.lesion["dice"].value == pytest.approx(np.mean(lesions))
    assert summary.lesion["dice"].sd == pytest.approx(np.std(lesions, ddof=1))
    assert (summary.lesion["dice"].least, summary.lesion["dice"].most) == (min(lesions), max(lesions))


def test_global_dice_is_that_of_all_voxels_as_if_they_were_one_scan():
    summary = summarise(SCORES)
    labels, true = (np.concatenate(each) for each in zip(*PAIRS, strict=True))
    assert summary.liver_dice_global.value == pytest.approx(dice(labels > 0, true > 0))
    assert summary.lesion_dice_global.value == pytest.approx(dice(labels == 2, true == 2))
    assert summary.lesion_dice_global.value != pytest.approx(summary.lesion["dice"].value)


def test_lesions_of_all_cases_are_counted_together_and_by_size():
    summary = summarise(SCORES)
    seen = summary.detection[0]
    total = seen.all_sizes
    assert (total.reference_count, total.predicted_count, total.found_count, total.true_count) == (5, 4, 3, 2)
    assert (total.recall.value, total.precision.value) == (3 / 5, 2 / 4)
    assert total.f1.value == pytest.approx(2 * 0.6 * 0.5 / 1.1)
    assert sum(each.reference_count for each in seen.by_size.values()) == 5
    assert sum(each.predicted_count for each in seen.by_size.values()) == 4
    assert summary.healthy.model_dump(exclude={"false_lesions"}) == {"cases": 2, "with_false_lesions": 1}
    assert summary.healthy.false_lesions.value == 0.5
    rows = [row for score in SCORES for row in score.agreement.lesion.reference_lesions]
    errors = [row.longest_diameter_error_mm for row in rows if row.longest_diameter_error_mm is not None]
    lengths = summary.longest_diameter_error
    assert lengths.lesions == len(errors) == 3
    assert lengths.mean_mm.value == pytest.approx(np.mean(errors))
    assert lengths.mean_absolute_mm.value == pytest.approx(np.mean(np.abs(errors)))


def test_no_answer_counts_as_empty_labels():
    _, true = PAIRS[0]
    score = a_score("x", np.zeros_like(true), true, "no_answer")
    summary = summarise([score])
    assert (summary.no_answer, summary.liver["dice"].value, summary.liver["dice"].n) == (1, 0.0, 1)
    assert summary.liver["assd_mm"].value is None
    assert summary.detection[0].all_sizes.recall.value == 0.0
    assert summary.detection[0].all_sizes.precision.value is None


def test_without_any_score_nothing_is_claimed():
    for scores in ([], [FAILED]):
        summary = summarise(scores)
        assert summary.liver["dice"].model_dump() == {
            "n": 0, "value": None, "interval": None, "sd": None, "median": None, "least": None, "most": None,
        }  # fmt: skip
        assert summary.lesion_dice_global.value is None
        assert summary.detection[1].all_sizes.f1.value is None


def test_the_interval_of_a_mean_is_that_of_theory():
    values = RNG.normal(0.9, 0.05, 60)
    low, high = _ratio(values, np.ones(60)).interval
    half = norm.ppf(0.975) * values.std() / np.sqrt(60)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Recall of lesions that come in clusters: each patient has his own chance of being found."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        lesions = rng.integers(1, 9, 40)
        found = rng.binomial(lesions, rng.beta(4, 2, 40))
        low, high = _ratio(found.astype(float), lesions.astype(float)).interval
        held += low <= 4 / 6 <= high
    assert 51 <= held <= 60


def test_intervals_are_the_same_each_time_and_absent_for_one_case():
    assert summarise(SCORES) == summarise(SCORES)
    assert summarise(SCORES[:1]).liver["dice"].interval is None
    assert _ratio(np.full(5, 0.7), np.ones(5)).interval == pytest.approx((0.7, 0.7))


def test_draws_in_which_a_figure_is_not_defined_are_left_out():
    found = _ratio(np.array([1.0, 0, 0]), np.array([2.0, 0, 0]))
    assert (found.value, found.interval) == (0.5, (0.5, 0.5))
    assert _estimate(lambda a: a, [np.array([1.0, 3.0])]).value == 4.0


def test_tables_have_a_row_for_each_case_and_each_lesion():
    rows = cases_csv([*SCORES, FAILED]).splitlines()
    assert len(rows) == 7
    assert rows[-1].startswith("broken,failed,corrupt_file")
    assert {len(row.split(",")) for row in rows} == {len(rows[0].split(","))}
    lesions = lesions_csv([*SCORES, FAILED]).splitlines()
    assert len(lesions) == 1 + 5 + 2  # those of the references, and two false ones


def test_the_page_shows_the_worst_first_and_escapes_names(tmp_path):
    scores = [*SCORES, a_score("<b>bad & ugly</b>", *masks([], [(3, 5)]))]
    (tmp_path / "cases" / "case 0").mkdir(parents=True)
    (tmp_path / "cases" / "case 0" / "differences.png").write_bytes(b"png")
    page = evaluation_page(summarise(scores), scores, tmp_path)
    assert page.count("<img") == 2  # once for its liver, once for its lesions
    assert 'src="cases/case%200/differences.png"' in page
    assert "&lt;b&gt;bad &amp; ugly&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "share a voxel" in page
    by_lesions = [score.name for why, score in worst(scores) if why.startswith("lesion")]
    assert by_lesions[-1] == max((s for s in scores if s.agreement.lesion.reference_voxels),
                                 key=lambda s: s.agreement.lesion.dice).name  # fmt: skip
