"""What `hepaseg segment` makes of the files and folders it is given."""

import errno
import gzip
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from app.batch import find_cases
from app.errors import InvalidReference, InvalidRequest
from app.imaging.nifti import write_volume
from app.imaging.volume import Geometry, Volume
from app.scans import said_of
from tests.locked_files import lock


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a" / "ct.nii.gz"
    path.parent.mkdir(parents=True)
    voxels = np.zeros((4, 4, 4), np.int16, order="F")
    write_volume(path, Volume(voxels, Geometry((4, 4, 4), np.diag([-1.0, -1.0, 2.0, 1.0]))))
    return path


def test_one_scan_writes_straight_to_the_output_folder(scan: Path, tmp_path: Path):
    (case,) = find_cases([scan], None, tmp_path / "out")
    assert (case.name, case.output, case.reference) == ("ct", tmp_path / "out", None)


def test_a_folder_stands_for_its_scans_by_content(scan: Path, tmp_path: Path):
    root = scan.parents[1]
    (root / "b").mkdir()
    (root / "b" / "renamed.dat").write_bytes(scan.read_bytes())
    (root / "notes.nii.gz").write_text("not a scan")
    cases = find_cases([root], None, tmp_path / "out")
    assert [case.name for case in cases] == ["a/ct", "b/renamed.dat"]
    assert [case.output for case in cases] == [tmp_path / "out/a/ct", tmp_path / "out/b/renamed.dat"]


def test_a_named_file_is_a_case_even_when_it_is_not_a_scan(scan: Path, tmp_path: Path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_text("not a scan")
    assert [case.name for case in find_cases([scan, bad], None, tmp_path / "out")] == ["ct", "bad"]


def test_two_scans_of_one_name_are_refused_instead_of_overwriting_each_other(scan: Path, tmp_path: Path):
    other = tmp_path / "ct.nii"
    other.write_bytes(scan.read_bytes())
    with pytest.raises(InvalidRequest, match="same name"):
        find_cases([scan, other], None, tmp_path / "out")


def test_nothing_to_segment_is_said(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="no scan"):
        find_cases([tmp_path], None, tmp_path / "out")


def test_references_for_several_scans_come_from_a_folder_by_name(scan: Path, tmp_path: Path):
    root, references = scan.parents[1], tmp_path / "labels"
    references.mkdir()
    (references / "ct.nii").write_bytes(b"labels")
    (case,) = find_cases([root], references, tmp_path / "out")
    assert case.reference == references / "ct.nii"
    (references / "ct.nii").unlink()
    with pytest.raises(InvalidReference, match=r"ct\.nii"):
        find_cases([root], references, tmp_path / "out")


def test_a_result_never_takes_the_place_of_what_was_given(scan: Path):
    truth = scan.with_name("labels.nii.gz")
    truth.write_bytes(b"a year of work")
    with pytest.raises(InvalidRequest, match=r"labels\.nii\.gz would be overwritten"):
        find_cases([scan], truth, scan.parent)


def test_results_inside_the_folder_of_scans_are_not_taken_for_scans_however_it_is_spelt(scan: Path, monkeypatch):
    output = scan.parent / "out"
    output.mkdir()
    (output / "labels.nii.gz").write_bytes(scan.read_bytes())
    assert [case.name for case in find_cases([scan.parent], None, output)] == ["ct"]
    monkeypatch.chdir(scan.parent)
    assert [case.name for case in find_cases([scan.parent], None, Path("out"))] == ["ct"]
    assert [case.name for case in find_cases([Path()], None, output)] == ["ct"]


def test_a_scan_that_cannot_be_used_is_not_passed_over_in_silence(scan: Path, tmp_path: Path):
    tilted = np.array([[-1.0, 0, 0, 0], [0, -1, 1, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    still = np.diag([-1.0, -1.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), tilted), scan.with_name("tilted.nii.gz"))
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), still), scan.with_name("two_phases.nii"))
    scan.with_name("cut.nii").write_bytes(gzip.decompress(scan.read_bytes())[:100])
    with zipfile.ZipFile(scan.with_name("letter.docx"), "w") as letter:
        letter.writestr("text.xml", "no scan")
    cases = find_cases([scan.parent], None, tmp_path / "out")
    assert [case.name for case in cases] == ["ct", "cut", "tilted", "two_phases"]


def test_a_file_that_may_not_be_read_stops_no_other(scan: Path, tmp_path: Path, monkeypatch):
    locked = scan.with_name("locked.nii.gz")
    locked.write_bytes(scan.read_bytes())
    lock(locked, monkeypatch)
    cases = find_cases([scan.parent], None, tmp_path / "out")
    assert [case.name for case in cases] == ["ct", "locked"]


@pytest.mark.parametrize(
    ("error", "code", "named"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "in/ct.nii"), "unreadable_file", "in/ct.nii could not be"),
        (FileNotFoundError(errno.ENOENT, "No such file", "in/ct.nii"), "unreadable_file", "in/ct.nii could not be"),
        (PermissionError(errno.EACCES, "Permission denied", "out/.x.part"), "invalid_request", "written to out"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage_full", "written to out"),
    ],
)  # fmt: skip
def test_what_could_not_be_read_is_not_taken_for_what_could_not_be_written(error, code, named):
    said = said_of(error, (Path("in/ct.nii"), None), Path("out"))
    assert said.code == code
    assert named in said.detail
