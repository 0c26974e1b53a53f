"""Cases from every layout that training reads: LiTS, MSD Task03, slice archives, a folder of pairs, phantoms.

A `Case` is a stack of slices in LPS (rows to posterior, columns to left) with its labels. Adapters are generators: one
case is in memory at a time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from app.imaging.volume import Geometry, Segmentation, Volume

#: In-plane pixel assumed where an archive has lost it (a 400 mm field of view on 256 pixels), mm.
NOMINAL_PIXEL_MM = 1.56
#: Patients of LiTS kept out of every training: volumes 3 and 5, in whatever source they turn up.
ALWAYS_KEPT_OUT = frozenset({3, 5})
#: Patients who carry the lesion labels that are trained on; never kept out.
ALWAYS_TRAINED = frozenset({0, 1, 2, 4, 6})
#: Which part of the other patients is kept out.
KEPT_OUT_FRACTION = 0.127
#: Patients without liver slices who are kept out; the second may belong to 3D-IRCADb, which others test on.
KEPT_OUT_NEGATIVES = ("nbia_chest", "IRCADmaybe")


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


def patient_number(patient: str) -> int | None:
    """The LiTS number inside a patient key, or None: `LiTS004`, `LiTSidx10004` and `volume-4` all give 4.

    Archives index the same scans differently (`idx10004` is the fifth of another listing); reading both as 4 can only
    join two patients, never split one.
    """
    found = re.search(r"(\d+)$", patient)
    return int(found.group(1)) % 10000 if found and patient.lower().startswith(("lits", "volume")) else None


def patient_group(patient: str) -> str:
    """The key by which patients are split: one group never lies on two sides."""
    number = patient_number(patient)
    return patient if number is None else f"lits-{number}"


def _rank(group: str) -> str:
    return hashlib.sha256(f"hepaseg-split:{group}".encode()).hexdigest()


def kept_out_groups(groups: Iterable[str]) -> frozenset[str]:
    """Those of the groups that no training sees: fixed ones, and about one in eight by hash.

    A group's place depends on its key alone: not on the machine, nor on what other data lie beside it.
    """
    forced = {f"lits-{number}" for number in ALWAYS_KEPT_OUT}
    trained = {f"lits-{number}" for number in ALWAYS_TRAINED}
    chosen = {group for group in groups if int(_rank(group), 16) < KEPT_OUT_FRACTION * 2**256}
    return frozenset(forced | chosen - trained)


def _possible_groups(patient: str) -> set[str]:
    """Every group that slices without liver may belong to.

    An archive numbers LiTS's second batch from 0 (`LiTSbatch2_sample_0012`); that batch starts at volume 28. It does
    not say whether its number is the volume's, so both readings count.
    """
    group, number = patient_group(patient), patient_number(patient)
    return {group, f"lits-{number + 28}"} if "_sample_" in patient and number is not None else {group}


def is_kept_out(patient: str, source: str, kept_out: frozenset[str]) -> bool:
    """Whether slices of this patient must not be trained on. Phantoms have seeds of their own for scoring."""
    if source == "phantom":
        return False
    return patient.startswith(KEPT_OUT_NEGATIVES) or bool(_possible_groups(patient) & kept_out)


def folds(groups: Iterable[str], count: int) -> list[frozenset[str]]:
    """The groups dealt into `count` parts in the order of their hash: the same on every machine, no group twice."""
    ordered = sorted(set(groups), key=_rank)
    if not 2 <= count <= len(ordered):
        raise ValueError(f"{len(ordered)} patients cannot be dealt into {count} folds")
    return [frozenset(ordered[start::count]) for start in range(count)]


def _from_nifti(scan: Path, labels: Path, name: str, patient: str, source: str) -> Case:
    image, reference = nib.nifti1.load(scan), nib.nifti1.load(labels)
    geometry = Geometry(image.shape[:3], np.asarray(image.affine))
    hounsfield = np.clip(np.rint(np.asanyarray(image.dataobj)), -32768, 32767).astype(np.int16)
    volume = Volume(hounsfield, geometry).reoriented("LPS")
    truth = Segmentation(np.rint(np.asanyarray(reference.dataobj)).astype(np.uint8), geometry).reoriented("LPS")
    i, j, k = volume.geometry.spacing_mm
    return Case(name, patient, source, volume.voxels.T, truth.labels.T, (k, j, i))


def _nifti(folder: Path, stem: str) -> Path | None:
    return next((p for p in (folder / f"{stem}.nii.gz", folder / f"{stem}.nii") if p.is_file()), None)


def lits(folder: Path) -> Iterator[Case]:
    """An unpacked LiTS directory: `volume-N.nii[.gz]` beside `segmentation-N.nii[.gz]`.

    Volumes 0 and 1 are one patient.
    """
    numbers = sorted(int(found.group(1)) for p in folder.iterdir() if (found := re.match(r"volume-(\d+)\.nii", p.name)))
    for number in numbers:
        scan, labels = _nifti(folder, f"volume-{number}"), _nifti(folder, f"segmentation-{number}")
        if scan and labels:
            patient = "LiTS000" if number == 1 else f"LiTS{number:03d}"
            yield _from_nifti(scan, labels, f"volume-{number}", patient, "lits")


def msd(folder: Path) -> Iterator[Case]:
    """Medical Segmentation Decathlon Task03: `imagesTr/liver_N.nii.gz`, `labelsTr/...`; N is LiTS's number."""
    for scan in sorted((folder / "imagesTr").glob("liver_*.nii*")):
        labels = folder / "labelsTr" / scan.name
        number = int(re.sub(r"\D", "", scan.name.split(".")[0]))
        if labels.is_file():
            patient = "LiTS000" if number == 1 else f"LiTS{number:03d}"
            yield _from_nifti(scan, labels, f"liver_{number}", patient, "lits")


def pairs(folder: Path) -> Iterator[Case]:
    """A hospital's own `images/NAME.nii[.gz]` and `labels/NAME.nii[.gz]`.

    The patient is NAME up to the first underscore.
    """
    for scan in sorted((folder / "images").glob("*.nii*")):
        labels = folder / "labels" / scan.name
        name = scan.name.split(".")[0]
        if labels.is_file():
            yield _from_nifti(scan, labels, name, name.split("_")[0], "pairs")


def archive(path: Path) -> Iterator[Case]:
    """A slice archive (.npz of hounsfield, liver, patient, volume): one case per volume. Lesions are inside label 1."""
    with np.load(path, allow_pickle=False) as stored:
        content = {key: stored[key] for key in ("hounsfield", "liver", "patient", "volume")}
    for volume in np.unique(content["volume"]):
        chosen = content["volume"] == volume
        labels = (content["liver"][chosen] > 0).astype(np.uint8)
        source = "spread" if labels.any() else "negative"
        pixel_mm = NOMINAL_PIXEL_MM * 256 / labels.shape[1]
        patient = str(content["patient"][chosen][0])
        hounsfield = content["hounsfield"][chosen].astype(np.int16)
        yield Case(
            f"{path.stem}/{volume}", patient, source, hounsfield, labels, (5.0, pixel_mm, pixel_mm),
            lesions_labelled=not labels.any(),
        )  # fmt: skip


def phantoms(seeds: Iterable[int]) -> Iterator[Case]:
    """Randomised synthetic abdomens with exact truth."""
    from training.phantom import abdomen

    for seed in seeds:
        phantom = abdomen(seed, randomise=True)
        volume, truth = phantom.volume.reoriented("LPS"), phantom.truth.reoriented("LPS")
        i, j, k = volume.geometry.spacing_mm
        yield Case(f"phantom-{seed}", f"phantom-{seed}", "phantom", volume.voxels.T, truth.labels.T, (k, j, i))


def discover(root: Path) -> Iterator[Case]:
    """Every case under a data root, whatever layouts it holds; raises FileNotFoundError where there is none."""
    found = False
    for folder in [root, *sorted(p for p in root.iterdir() if p.is_dir())]:
        adapters = [
            (any(folder.glob("volume-*.nii*")), lits),
            ((folder / "imagesTr").is_dir(), msd),
            ((folder / "images").is_dir(), pairs),
        ]
        for present, adapter in adapters:
            if present:
                found = True
                yield from adapter(folder)
        for path in sorted(folder.glob("*.npz")):
            found = True
            yield from archive(path)
    if not found:
        raise FileNotFoundError(f"no LiTS, MSD, pairs or slice archives under {root}")
