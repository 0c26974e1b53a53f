"""Which scan goes with which reference, and which labels with both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.errors import InvalidRequest
from app.scans import NIFTI_ENDINGS, files_below, is_scan, stem_of

#: Folders of scans, and what the folder of their references beside it is called: Decathlon, nnU-Net, others.
_FOLDERS = {"imagesTr": "labelsTr", "imagesTs": "labelsTs", "images": "labels"}
#: nnU-Net ends the names of its scans with the number of the channel.
_CHANNEL = "_0000"
_LAYOUTS = (
    "volume-N.nii[.gz] with segmentation-N.nii[.gz] (LiTS), imagesTr/X with labelsTr/X (Decathlon, nnU-Net), images/X "
    "with labels/X, or folders with ct.nii.gz and labels.nii.gz"
)


@dataclass(frozen=True)
class Case:
    """A scan, its reference, and the labels to compare if they are not to be made. What is missing is None.

    name: unique among the cases, with / where they lie in folders.
    """

    name: str
    scan: Path
    reference: Path | None
    labels: Path | None = None


def find_cases(folder: Path, references: Path | None, results: Path | None, output: Path) -> list[Case]:
    """The cases of a test set, sorted by name.

    references: the folder with a label file for each scan in `folder`; None if they lie where `_LAYOUTS` says.
    results: a folder with labels made before, by this program or another. output: what is in it is no scan.
    Raises InvalidRequest if there is nothing to evaluate, or two scans have the same name.
    """
    files = list(files_below(folder, *(each for each in (references, results, output) if each is not None)))
    references = None if references is not None and references.resolve() == folder.resolve() else references
    pairs = list(_beside(files) if references is None else _in_folder(files, folder, references))
    if not pairs:
        where = f"Expected is {_LAYOUTS}; or name their folder with --reference." if references is None else ""
        raise InvalidRequest(f"There is no scan with a reference in {folder}. {where}".strip())
    cases = [
        Case(name, scan, reference, None if results is None else _result_of(name, scan, results))
        for scan, reference in pairs
        for name in [str(scan.relative_to(folder).with_name(stem_of(scan.name)))]
    ]
    _require_different_names(cases)
    return cases


def _require_different_names(cases: list[Case]) -> None:
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidRequest(f"Two scans have the same name and would share a folder: {', '.join(twice)}.")


def _beside(files: list[Path]) -> Iterator[tuple[Path, Path | None]]:
    """Scans that have a reference where one of the layouts says."""
    there = set(files)
    for scan in files:
        found = [each for each in _places(scan) if each in there]
        if found:
            yield scan, found[0]


def _places(scan: Path) -> Iterator[Path]:
    stem = stem_of(scan.name)
    if stem.startswith("volume-"):
        yield from _named(scan.parent, stem.replace("volume-", "segmentation-", 1))
    if stem == "ct":
        yield from _named(scan.parent, "labels")
    if scan.parent.name in _FOLDERS:
        yield from _named(scan.parent.with_name(_FOLDERS[scan.parent.name]), stem.removesuffix(_CHANNEL))


def _in_folder(files: list[Path], folder: Path, references: Path) -> Iterator[tuple[Path, Path | None]]:
    """Every scan there is, with or without a reference."""
    for scan in files:
        if is_scan(scan):
            stem = stem_of(scan.name)
            names = (stem, stem.replace("volume-", "segmentation-", 1), stem.removesuffix(_CHANNEL))
            inner = references / scan.relative_to(folder).parent
            yield scan, _first(path for place in (inner, references) for name in names for path in _named(place, name))


def _result_of(name: str, scan: Path, results: Path) -> Path | None:
    """What `hepaseg segment` wrote for the scan, or a file with its name, as other programs write."""
    stem = stem_of(scan.name)
    stems = (stem, stem.removesuffix(_CHANNEL), stem.replace("volume-", "segmentation-", 1))
    places = [results / name / "labels.nii.gz", results / "cases" / name / "labels.nii.gz"]
    return _first((*places, *(path for each in stems for path in _named(results, each))))


def _named(folder: Path, stem: str) -> tuple[Path, ...]:
    return tuple(folder / (stem + ending) for ending in NIFTI_ENDINGS)


def _first(paths: Iterator[Path] | tuple[Path, ...]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
