"""One case of a test set: what is kept of a run that is ended, and what is said of what cannot be read or written."""

import json
from pathlib import Path

import pytest

from app.errors import Canceled, InvalidRequest
from app.evaluation.cases import Case
from app.evaluation.score import SCORE_FILE, Scorer
from app.imaging.nifti import write_labels, write_volume
from app.settings import Settings
from tests.locked_files import lock
from training.phantom import abdomen


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    phantom = abdomen(seed=1, shape=(64, 56, 24), spacing_mm=(5.0, 5.5, 8.0), noise_hu=0)
    scan, reference = folder / "ct.nii.gz", folder / "labels.nii.gz"
    write_volume(scan, phantom.volume)
    write_labels(reference, phantom.truth.labels, phantom.truth.geometry)
    return Case("ct", scan, reference)


def end(_stage: str, _share: float) -> None:
    raise Canceled("The command was ended.")


def scorer(folder: Path, cascade, **settings: object) -> Scorer:
    return Scorer(folder, Settings(**settings), cascade, None)


def test_a_case_that_was_ended_has_no_score(case, cascade, tmp_path):
    with pytest.raises(Canceled):
        scorer(tmp_path, cascade).score(case, end)
    assert list(tmp_path.rglob("*.json")) == []


def test_a_score_does_not_outlive_the_files_that_it_was_about(case, cascade, tmp_path):
    """Scored, begun anew with another setting, ended, and gone on with the first: its files may be half replaced."""
    first = scorer(tmp_path, cascade)
    first.score(case)
    assert first.known(case) is not None
    with pytest.raises(Canceled):
        scorer(tmp_path, cascade, split_lesions=True).score(case, end)
    assert first.known(case) is None


@pytest.mark.parametrize("which", ["scan", "reference"])
def test_a_file_that_may_not_be_read_is_named_in_a_sentence(case, cascade, tmp_path, monkeypatch, which):
    lock(getattr(case, which), monkeypatch)
    score = scorer(tmp_path, cascade).score(case)
    assert (score.status, score.code) == ("failed", "unreadable_file")
    assert score.detail == f"Permission denied: {getattr(case, which)} could not be read."
    assert json.loads((tmp_path / "cases/ct" / SCORE_FILE).read_text())["code"] == "unreadable_file"


def test_results_that_cannot_be_written_end_the_run_instead_of_each_case_to_come(case, cascade, tmp_path, monkeypatch):
    lock(tmp_path / "cases/ct/.labels.nii.gz.part", monkeypatch)
    with pytest.raises(InvalidRequest, match="could not be written"):
        scorer(tmp_path, cascade).score(case)
