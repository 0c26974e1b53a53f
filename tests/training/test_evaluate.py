"""Scores, counted by hand or against MONAI, and pictures that show the worst cases."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from PIL import Image

from training.datasets import Case
from training.evaluation_card import Column, painted_part
from training.judge import Overlap, lesions_found, summary
from training.painted import Painted, PaintedScore, painted_slices, size_class
from training.sheets import WorstCases

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def test_dice_is_that_of_monai():
    from monai.metrics import compute_dice

    found, true = np.random.default_rng(0).random((2, 12, 20, 20)) < 0.3
    expected = compute_dice(torch.tensor(found)[None, None].float(), torch.tensor(true)[None, None].float())
    assert Overlap().add(found, true) == pytest.approx(float(expected))


def test_a_lesion_is_found_if_a_quarter_of_it_is_marked_and_a_mark_beside_all_lesions_is_false():
    true = np.zeros((30, 30, 6), bool)
    true[2:6, 2:6, 2], true[10:14, 10:14, 2], true[20:24, 20:24, 2] = True, True, True
    found = np.zeros_like(true)
    found[2:6, 2:3, 2] = True  # a quarter
    found[10:13, 10:11, 2] = True  # less
    found[25:28, 2:5, 4] = True  # nothing there
    assert lesions_found(found, true) == {"lesions": 3, "lesions_found": 1, "false_marks": 1}


def test_the_summary_is_of_the_cases():
    result = summary({"a": 0.9, "b": 0.5, "c": 0.7})
    assert (result["cases"], result["median"], result["worst"], result["worst_case"]) == (3, 0.7, 0.5, "b")
    assert result["mean"] == pytest.approx(0.7)
    assert 0.5 <= result["interval"][0] < 0.7 < result["interval"][1] <= 0.9
    assert summary({}) is None


def disk(row, column, radius):
    y, x = np.mgrid[:100, :100]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


@pytest.mark.parametrize(("radius", "name"), [(4, "under 10 mm"), (7, "10 to 20 mm"), (12, "over 20 mm")])
def test_the_size_of_an_area_is_the_diameter_of_a_disc_as_large(radius, name):
    assert size_class(int(disk(50, 50, radius).sum()), 1.0) == name


def test_precision_recall_and_f1_by_size():
    true = disk(20, 20, 4) | disk(20, 60, 4) | disk(60, 60, 12)
    known = disk(85, 20, 6)
    found = disk(20, 20, 4) | disk(60, 60, 10) | disk(90, 90, 3) | known
    score = PaintedScore()
    score.add(Painted(None, true, known, 1.0), found)
    by_size = score.result()["by_size"]
    small, large = by_size["under 10 mm"], by_size["over 20 mm"]
    assert (small["painted"], small["found"], small["marks"], small["true_marks"]) == (2, 1, 2, 1)
    assert (small["recall"], small["precision"], small["f1"]) == (0.5, 0.5, 0.5)
    assert (large["recall"], large["precision"], large["f1"]) == (1.0, 1.0, 1.0)
    assert by_size["10 to 20 mm"]["recall"] is None
    every = score.result()["all sizes"]
    assert (every["recall"], every["precision"]) == (2 / 3, 2 / 3)
    shared, total = (found & true).sum(), true.sum() + (found & ~known).sum()
    assert score.result()["slice_dice_mean"] == pytest.approx(2 * shared / total)


def flat_liver(name="a"):
    """Eight slices of a liver of 100 HU, with one lesion that was known before."""
    labels = np.zeros((8, 100, 100), np.uint8)
    labels[1:7, 20:80, 20:80] = 1
    labels[3, 30:40, 30:40] = 2
    hounsfield = np.where(labels > 0, 100, -1000).astype(np.int16)
    return Case(name, "p", "spread", hounsfield, labels, (5.0, 1.5, 1.5))


def test_painted_lesions_are_darker_or_brighter_than_the_liver_lie_in_it_and_leave_known_ones_alone():
    slices = list(painted_slices(flat_liver()))
    assert len(slices) == 6
    for painted in slices:
        assert painted.volume.geometry.spacing_mm == (1.5, 1.5, 5.0)
        middle = painted.volume.voxels.T[1]
        assert painted.true.any()
        assert (middle[painted.true] > -50).all()
        assert np.abs(middle[painted.true].astype(float) - 100).mean() > 5
        assert not (painted.true & painted.known).any()


def test_every_network_is_shown_the_same_painted_lesions_whoever_was_scored_before():
    first = [painted.true for painted in painted_slices(flat_liver())]
    torch.rand(17)
    list(painted_slices(flat_liver("b")))
    again = [painted.true for painted in painted_slices(flat_liver())]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_slices_with_hardly_any_liver_are_not_painted_into():
    case = flat_liver()
    tiny = replace(case, labels_kji=np.where(np.arange(100) < 24, case.labels_kji, 0).astype(np.uint8))
    assert list(painted_slices(tiny)) == []


def test_the_worst_cases_are_kept_and_the_slices_with_most_wrong_in_them(tmp_path):
    case, worst = flat_liver(), WorstCases(most=2)
    found = case.labels_kji.copy()
    found[5, 20:60] = 0
    for name, dice in (("good", 0.9), ("poor patient", 0.3), ("fair", 0.6)):
        worst.add(name, dice, case.hounsfield_kji, case.labels_kji, found)
    (tmp_path / "03-0.100-old.png").write_bytes(b"from the last time")
    written = worst.write(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["01-0.300-poor_patient.png", "02-0.600-fair.png"]
    assert 5 in worst.sheets[0].numbers
    assert all(Image.open(path).size == (900, 960) for path in written)


def test_where_nothing_was_painted_the_card_says_so():
    assert "No synthetic lesions" in painted_part([Column("default", {"painted": None}, {})])[0]
