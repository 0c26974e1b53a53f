"""Cases from every layout that training reads: LiTS, MSD Task03, slice archives, a folder of pairs, phantoms.

A `Case` is a stack of slices in LPS (rows to posterior, columns to left) with its labels. Files are read as the service
reads them, one case at a time; that every scan has its labels is checked before the first is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.errors import InputError
from app.imaging.scan import read_labels, read_scan
from training.split import DataError

#: In-plane pixel assumed where an archive has lost it (a 400 mm field of view on 256 pixels), mm.
NOMINAL_PIXEL_MM = 1.56
#: How far below the data root scans are looked for: LiTS unpacks to media/nas/01_Datasets/CT/LITS/Training Batch 1.
DEEPEST_FOLDER = 8
SUFFIX = re.compile(r"\.(nii|nii\.gz|zip)$")
ARCHIVE_KEYS = ("hounsfield", "liver", "patient", "volume")


@dataclass(frozen=True, eq=False)
class Case:
    """Slices of one scan.

    hounsfield_kji: int16 (K, J, I). labels_kji: uint8, 0 background, 1 liver, 2 lesion. `lesions_labelled` is
    false where label 1 may hide lesions. `source` is the adapter's name; `spacing_kji_mm` may be nominal.
    """

    name: str
    patient: str
    source: str
    hounsfield_kji: npt.NDArray[np.int16]
    labels_kji: npt.NDArray[np.uint8]
    spacing_kji_mm: tuple[float, float, float]
    lesions_labelled: bool = True


@dataclass(frozen=True)
class Pair:
    """A scan and its labels on disk, not read yet."""

    name: str
    patient: str
    source: str
    scan: Path
    labels: Path

    def read(self) -> Iterator[Case]:
        """The one case. Raises DataError if the two do not belong together or hold what they must not."""
        try:
            volume = read_scan(self.scan).volume
            truth = read_labels(self.labels, volume.geometry).reoriented("LPS")
        except InputError as error:
            raise DataError(f"{self.scan} with {self.labels}: {error.detail}") from error
        volume = volume.reoriented("LPS")
        i, j, k = volume.geometry.spacing_mm
        yield Case(self.name, self.patient, self.source, volume.voxels.T, truth.labels.T, (k, j, i))


@dataclass(frozen=True)
class Archive:
    """A slice archive (.npz of hounsfield, liver, patient, volume) on disk, not read yet."""

    path: Path

    def read(self) -> Iterator[Case]:
        """A case per volume. Lesions are inside label 1; a volume without label 1 is a negative."""
        content = self._checked()
        for volume in np.unique(content["volume"]):
            chosen = content["volume"] == volume
            labels = content["liver"][chosen].astype(np.uint8)
            source = "spread" if labels.any() else "negative"
            pixel_mm = NOMINAL_PIXEL_MM * 256 / labels.shape[1]
            patient = str(content["patient"][chosen][0])
            hounsfield = content["hounsfield"][chosen].astype(np.int16)
            yield Case(
                f"{self.path.stem}/{volume}", patient, source, hounsfield, labels, (5.0, pixel_mm, pixel_mm),
                lesions_labelled=not labels.any(),
            )  # fmt: skip

    def _checked(self) -> dict[str, npt.NDArray[np.generic]]:
        with np.load(self.path, allow_pickle=False) as stored:
            missing = [key for key in ARCHIVE_KEYS if key not in stored]
            if missing:
                raise DataError(f"{self.path}: a slice archive holds {', '.join(ARCHIVE_KEYS)}; no {missing[0]} here")
            content = {key: stored[key] for key in ARCHIVE_KEYS}
        hounsfield, liver = content["hounsfield"], content["liver"]
        if hounsfield.ndim != 3 or hounsfield.shape != liver.shape:
            raise DataError(
                f"{self.path}: hounsfield {hounsfield.shape} and liver {liver.shape} must be (n, rows, columns)"
            )
        if len(content["patient"]) != len(liver) or len(content["volume"]) != len(liver):
            raise DataError(f"{self.path}: every one of the {len(liver)} slices needs its patient and its volume")
        if not np.isin(liver, (0, 1)).all():
            raise DataError(f"{self.path}: liver must hold 0 and 1 only, it holds {np.unique(liver)[:8].tolist()}")
        return content


def _lits_patient(number: int) -> str:
    """Volumes 0 and 1 of LiTS, and of MSD Task03 with its numbers, are one patient."""
    return f"LiTS{0 if number == 1 else number:03d}"


def _stem(path: Path) -> str:
    return SUFFIX.sub("", path.name)


def _scans(folder: Path) -> dict[str, Path]:
    """The image files of a folder by name without suffix; what macOS leaves beside them (`._NAME`) is no scan."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not SUFFIX.search(path.name) or not path.is_file():
            continue
        if _stem(path) in found:
            raise DataError(f"{path} and {found[_stem(path)].name} are the same scan twice: remove one")
        found[_stem(path)] = path
    return found


def _matched(scans: dict[str, Path], labels: dict[str, Path], where: str) -> list[tuple[str, Path, Path]]:
    """(name, scan, labels) in the order of the numbers in the names. Raises DataError if one is without the other."""
    alone = [str(scans[name]) for name in sorted(scans.keys() - labels.keys())]
    alone += [str(labels[name]) for name in sorted(labels.keys() - scans.keys())]
    if alone:
        more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
        raise DataError(f"{len(alone)} files have no counterpart {where}: {', '.join(alone[:5])}{more}")
    numbers = {name: [int(n) for n in re.findall(r"\d+", name)] for name in scans}
    return [(name, scans[name], labels[name]) for name in sorted(scans, key=lambda name: (numbers[name], name))]


def lits(folders: Iterable[Path]) -> list[Pair]:
    """An unpacked LiTS: `volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in one folder or in several."""
    found: dict[str, dict[str, Path]] = {"volume": {}, "segmentation": {}}
    for folder in folders:
        for stem, path in _scans(folder).items():
            kind, _, number = stem.partition("-")
            if kind in found and number.isdigit():
                if number in found[kind]:
                    raise DataError(f"{path} and {found[kind][number]} are the same scan twice: remove one")
                found[kind][number] = path
    where = "(volume-N belongs to segmentation-N)"
    return [
        Pair(f"volume-{number}", _lits_patient(int(number)), "lits", scan, labels)
        for number, scan, labels in _matched(found["volume"], found["segmentation"], where)
    ]


def msd(folder: Path) -> list[Pair]:
    """Medical Segmentation Decathlon Task03: `imagesTr/liver_N.nii.gz`, `labelsTr/...`; N is LiTS's number."""
    matched = _matched(_scans(folder / "imagesTr"), _scans(folder / "labelsTr"), f"in {folder}/imagesTr and labelsTr")
    foreign = [scan for name, scan, _ in matched if not re.fullmatch(r"liver_\d+", name)]
    if foreign:
        raise DataError(f"{foreign[0]}: expected liver_N as in Task03; own scans belong into images/ and labels/")
    return [
        Pair(name, _lits_patient(int(name.removeprefix("liver_"))), "lits", scan, labels)
        for name, scan, labels in matched
    ]


def pairs(folder: Path) -> list[Pair]:
    """A hospital's own `images/NAME.nii[.gz]` (or a zip of a DICOM series) and `labels/NAME.nii[.gz]`.

    The patient is NAME up to the first underscore.
    """
    matched = _matched(_scans(folder / "images"), _scans(folder / "labels"), f"in {folder}/images and labels")
    return [Pair(name, name.split("_")[0], "pairs", scan, labels) for name, scan, labels in matched]


def phantoms(seeds: Iterable[int]) -> Iterator[Case]:
    """Randomised synthetic abdomens with exact truth."""
    from training.phantom import abdomen

    for seed in seeds:
        phantom = abdomen(seed, randomise=True)
        volume, truth = phantom.volume.reoriented("LPS"), phantom.truth.reoriented("LPS")
        i, j, k = volume.geometry.spacing_mm
        yield Case(f"phantom-{seed}", f"phantom-{seed}", "phantom", volume.voxels.T, truth.labels.T, (k, j, i))


def _folders(root: Path) -> list[Path]:
    """The root and the folders below it that are not hidden, in the order of their names."""
    found = []
    for path, below, _ in os.walk(root, followlinks=True):
        deep = len(Path(path).relative_to(root).parts) >= DEEPEST_FOLDER
        below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
        found.append(Path(path))
    return found


def listed(root: Path) -> list[Pair | Archive]:
    """What lies under a data root, whatever layouts it holds; nothing is read yet.

    Raises FileNotFoundError where there is nothing, DataError where a scan or its labels are missing.
    """
    folders = _folders(root)
    found: list[Pair | Archive] = [*lits(folders)]
    for folder in folders:
        if (folder / "imagesTr").is_dir():
            found += msd(folder)
        if (folder / "images").is_dir():
            found += pairs(folder)
        found += [Archive(path) for path in sorted(folder.glob("*.npz"))]
    if not found:
        raise FileNotFoundError(f"no LiTS, MSD, pairs or slice archives under {root}")
    return found


def discover(root: Path) -> Iterator[Case]:
    """Every case under a data root, one at a time; raises what `listed` and the reading of a file raise."""
    for item in listed(root):
        yield from item.read()
