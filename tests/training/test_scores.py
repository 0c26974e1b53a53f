"""Scores, counted by hand or against MONAI, and pictures that show the worst cases."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from PIL import Image

from app.imaging.nifti import write_labels, write_volume
from app.inference.manifest import load_networks
from app.inference.session import Runtime
from tests.analytic_networks import lesion_graph, liver_graph, phantom_models, write_models
from training import evaluate as evaluation
from training.datasets import Case
from training.evaluation_card import Column, painted_part, write_cards
from training.judge import Judge, Overlap, lesions_found, summary
from training.painted import Painted, PaintedScore, painted_slices, size_class
from training.phantom import LIVER_RANGE_HU, abdomen
from training.provenance import fingerprint
from training.sheets import WorstCases
from training.split import DataError

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


def test_the_pictures_of_lesions_show_where_lesions_are_wrong_and_those_of_livers_where_livers_are():
    case = flat_liver()
    true, found = case.labels_kji.copy(), case.labels_kji.copy()
    true[2, 30:34, 30:34] = 2
    for k in (4, 5, 6, 7):
        found[k, 20:60] = 0
    shown = {}
    for label in (1, 2):
        worst = WorstCases(label)
        worst.add("case", 0.5, case.hounsfield_kji, true, found)
        shown[label] = worst.sheets[0].numbers
    assert shown[1] == (4, 5, 6, 7)
    assert 2 in shown[2]


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Networks that segment phantoms without noise exactly, worse ones, and data: own pairs, slices, negatives."""
    place = tmp_path_factory.mktemp("exact")
    phantom_models(place / "models")
    half = liver_graph(LIVER_RANGE_HU, blind_on_the_left=True)
    write_models(place / "worse", liver=half, lesion=lesion_graph((0, 1)))
    for name in ("images", "labels"):
        (place / "data" / name).mkdir(parents=True)
    stacks = []
    for seed in range(4):
        phantom = abdomen(seed, (96, 96, 16), (4.0, 4.0, 12.0), noise_hu=0)
        write_volume(place / f"data/images/p{seed}.nii.gz", phantom.volume)
        write_labels(place / f"data/labels/p{seed}.nii.gz", phantom.truth.labels, phantom.truth.geometry)
        volume, truth = phantom.volume.reoriented("LPS"), phantom.truth.reoriented("LPS")
        stacks.append((volume.voxels.T[4:9], truth.liver.T[4:9]))
    hounsfield = np.concatenate([stack for stack, _ in stacks] + [np.full((3, 96, 96), -1000, np.int16)])
    liver = np.concatenate([mask for _, mask in stacks] + [np.zeros((3, 96, 96), bool)]).astype(np.uint8)
    patients = np.repeat(["LiTS003", "LiTS005", "LiTS000", "LiTS001", "nbia_chest_1"], [5, 5, 5, 5, 3])
    np.savez(place / "data/slices.npz", hounsfield=hounsfield, liver=liver, patient=patients, volume=patients)
    return place


@pytest.fixture(scope="module")
def scored(exact):
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluation, "SCORED_PHANTOMS", ())
    yield evaluation.evaluate(exact / "models", exact / "data", exact / "worse", exact / "worst")
    patch.undo()


def test_exact_networks_score_one_on_everybody_who_is_kept_out_and_on_nobody_else(scored):
    assert scored["kept_out"] == {"negative": 1, "pairs": 1, "spread": 2}
    assert scored["kept_out_patients"] == ["lits-3", "lits-5", "nbia_chest_1"]
    assert set(scored["liver_patients"]) == {"LiTS003", "LiTS005"}
    own = scored["volumes"]["own scan 1"]
    assert own["liver"] == own["lesion"] == 1.0
    assert (own["lesions_found"], own["false_marks"]) == (own["lesions"], 0)
    assert (own["liver_agreement"]["hd95_mm"], own["liver_agreement"]["voe"]) == (0.0, 0.0)
    assert scored["slices_without_liver"]["slices"] == [3, 3]
    assert scored["liver_summary"]["worst"] == scored["liver_dice_of_all_voxels"] == 1.0


def test_worse_networks_beside_them_score_less_on_the_same_cases(scored):
    beside = scored["beside"]
    assert beside["liver_summary"]["cases"] == scored["liver_summary"]["cases"] == 3
    assert beside["liver_summary"]["mean"] < scored["liver_summary"]["mean"] - 0.02
    assert beside["volumes"]["own scan 1"]["lesions_found"] == 0
    assert beside["painted"]["all sizes"]["painted"] == scored["painted"]["all sizes"]["painted"] > 0


def test_the_readme_has_both_columns_and_the_cards_their_scores(exact, scored):
    write_cards(exact / "models", scored, exact / "worse")
    text = (exact / "models" / "README.md").read_text()
    assert "| own scan 1 (whole volume) | 1.000 | 0." in text
    networks = load_networks(exact / "models", Runtime(threads=1))
    assert networks.liver.card.metrics["dice"] == scored["liver_summary"]
    assert networks.lesion.card.metrics["painted"]["all sizes"] == scored["painted"]["all sizes"]
    assert all(network.sha256 in text for network in networks)


@pytest.mark.parametrize(
    ("patient", "source", "knows"),
    [
        ("LiTS003", "lits", ["LiTS003"]),
        ("LiTSbatch2_sample_0003", "negative", ["LiTS003", "LiTS031"]),  # its number, or that of the second batch
        ("LiTS031", "spread", ["LiTS031"]),
    ],
)
def test_a_patient_whom_a_network_may_know_is_not_scored(patient, source, knows):
    empty = np.zeros((1, 2, 2), np.int16)
    case = Case("case", patient, source, empty, empty.astype(np.uint8), (1.0, 1.0, 1.0))
    for known in ("LiTS003", "LiTS031", "LiTS050"):
        card = SimpleNamespace(model_extra={"training": json.dumps({"data": {"known_patients": [fingerprint(known)]}})})
        network = SimpleNamespace(name="a network", card=card)
        judge = Judge(SimpleNamespace(liver=network, lesion=network), None)
        assert (judge.known_to(case) is not None) == (known in knows)
        if known in knows:
            with pytest.raises(DataError, match="a network was trained on this patient"):
                judge.refuse_known(case)


def test_where_nothing_was_painted_the_card_says_so():
    assert "No synthetic lesions" in painted_part([Column("default", {"painted": None}, {})])[0]
