"""The good scans that faults are put into, and mild changes of them that must raise no alarm."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from verdict_faults import Scan, noisy

from app.imaging.scan import read_labels, read_scan
from app.imaging.volume import Geometry, Segmentation, Volume
from app.quality import MEND

#: Slices of LiTS volumes 1 to 6 are said to be 1 mm apart; those of volume 1 are about as many as volume 0's, at 5 mm.
_SLICE_MM = {1: 5.0}
#: What of a few slices of a patient, stacked, can be told; and the faults that are put into them.
OF_FEW_SLICES = frozenset(MEND) - {"liver_on_left", "front_back_swapped", "quarter_turn", "axes_swapped", "noisy"}
FAULTS_OF_SLICES = ("left and right swapped",)
#: Whose scans get the faults that only show in the answer.
WITH_NETWORKS = ("lits0", "lits3", "lits5", "trunk", "phantom0", "phantom1")
#: What may be said of a scan without a liver: that it has none, or that what was found is none.
NO_ABDOMEN = frozenset({"no_liver", "liver_small", "liver_cut_off", "liver_ragged", "liver_in_pieces", "liver_hu"})
#: A reference that ends with more of its largest cross-section is cut off: what `liver_cut_off` says is true of it.
_CUT_OFF_SHARE = 0.1


def real(data: Path) -> Iterator[Scan]:
    """Seven patients: five whose scans hold the liver alone, and two whole ones; about 1.5 mm and 3 to 5 mm."""
    yield _whole_lits(data)
    for number in range(1, 7):
        volume, liver = _lits(data, number)
        thick = 1 if number in _SLICE_MM else 4
        yield _prepared(f"lits{number}", "LiTS000" if number == 1 else f"LiTS00{number}", volume, liver, thick)
    ct = read_scan(data / "nifti/totalsegmentator_ct_3mm.nii.gz").volume
    liver = read_labels(data / "nifti/totalsegmentator_liver_3mm.nii.gz", ct.geometry)
    # Looked at by eye: its vessels hold no contrast, and its first slice cuts the liver's dome off.
    truly = frozenset({"phase_native", "liver_cut_off"})
    yield Scan("trunk", "TotalSegmentator", ct.reoriented("LPS"), liver.reoriented("LPS"), whole=True, truly=truly)


def phantoms(count: int) -> Iterator[Scan]:
    """Synthetic abdomens with exact truth, each another body in another contrast."""
    from training.phantom import abdomen

    for seed in range(count):
        made = abdomen(100 + seed, (160, 160, 60), (2.4, 2.4, 3.5), randomise=seed > 0)
        name, truly = f"phantom{seed}", _cut_off(made.truth)
        yield Scan(name, name, made.volume, made.truth, synthetic=True, truly=truly)


def natives(data: Path) -> Iterator[tuple[str, Volume]]:
    """Real scans as they are on the disk, at full resolution."""
    yield "LiTS005", _lits(data, 5)[0]
    yield "LiTS000", series(data / "dicom/lits0")


def by_slices(data: Path) -> Iterator[tuple[str, Scan]]:
    """Every seventh of the LiTS volumes of which there are 4 to 9 slices, stacked as if they were 8 mm apart.

    What lies below 0 HU is lost in them: it is made -160 HU, so that air and fat look alike.
    """
    kept = np.load(data / "slices/lits_spread.npz")
    for name in np.unique(kept["volume"])[::7]:
        chosen = np.flatnonzero(kept["volume"] == name)
        chosen = chosen[np.argsort(kept["slice"][chosen])]
        slices, liver = kept["hounsfield"][chosen], kept["liver"][chosen]
        voxels = np.asfortranarray(np.where(slices > 0, slices, -160).astype(np.int16).T)
        geometry = Geometry(voxels.shape, np.diag([-1.5, -1.5, 8.0, 1.0]))
        labels = Segmentation(np.asfortranarray((liver > 0).astype(np.uint8).T), geometry)
        patient = str(kept["patient"][chosen[0]])
        yield patient, Scan(str(name), patient, Volume(voxels, geometry), labels, clipped=True)


def chests(data: Path) -> Iterator[Scan]:
    """Two patients' chests without liver."""
    kept = np.load(data / "slices/chest_without_liver.npz")
    for name in np.unique(kept["volume"]):
        chosen = np.flatnonzero(kept["volume"] == name)
        chosen = chosen[np.argsort(kept["slice"][chosen])]
        voxels = np.asfortranarray(kept["hounsfield"][chosen].T)
        geometry = Geometry(voxels.shape, np.diag([-1.5, -1.5, 5.0, 1.0]))
        nothing = Segmentation(np.zeros(voxels.shape, np.uint8, order="F"), geometry)
        yield Scan(str(name), str(name), Volume(voxels, geometry), nothing)


def series(folder: Path) -> Volume:
    """A DICOM series, read as the service does."""
    with tempfile.TemporaryDirectory() as place:
        packed = Path(place) / "series.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(folder.glob("*.dcm")):
                archive.write(file, file.name)
        return read_scan(packed).volume


def _lits(data: Path, number: int) -> tuple[Volume, Segmentation]:
    volume = read_scan(data / f"lits/volume-{number}.nii.gz").volume
    liver = read_labels(data / f"lits/segmentation-{number}.nii.gz", volume.geometry)
    affine = volume.geometry.affine.copy()
    affine[2, 2] = _SLICE_MM.get(number, affine[2, 2])
    geometry = Geometry(volume.geometry.shape, affine)
    return Volume(volume.voxels, geometry), Segmentation(liver.labels, geometry)


def _whole_lits(data: Path) -> Scan:
    """Volume 0 as a whole series; its labels are of a part of the slices, which is found by their values."""
    part, reference = _lits(data, 0)
    whole = series(data / "dicom/lits0").reoriented("LPS")
    low, high = int(part.voxels.min()), int(part.voxels.max())
    first = part.voxels[::8, ::8, 0].astype(np.float32)
    apart = [
        np.abs(np.clip(whole.voxels[::8, ::8, k], low, high) - first).mean() for k in range(whole.geometry.shape[2])
    ]
    start = int(np.argmin(apart))
    labels = np.zeros(whole.geometry.shape, np.uint8, order="F")
    labels[:, :, start : start + part.geometry.shape[2]] = reference.labels
    return _prepared("lits0", "LiTS000", whole, Segmentation(labels, whole.geometry), 1, whole=True)


def _prepared(name: str, patient: str, volume: Volume, liver: Segmentation, thick: int, *, whole: bool = False) -> Scan:
    """Half the resolution in the slice, so many slices averaged: the corpus must be gone through in minutes."""
    upright = volume.reoriented("LPS")
    geometry = _coarser(upright.geometry, (2, 2, thick))
    voxels = _averaged(upright.voxels, (2, 2, thick))
    i, j, k = geometry.shape
    labels = np.asfortranarray(liver.reoriented("LPS").labels[::2, ::2, thick // 2 :: thick][:i, :j, :k])
    clipped = int(upright.voxels.min()) > -500
    reference = Segmentation(labels, geometry)
    truly = _cut_off(reference)
    return Scan(name, patient, Volume(voxels, geometry), reference, whole=whole, clipped=clipped, truly=truly)


def _cut_off(reference: Segmentation) -> frozenset[str]:
    """That it is, if the reference says so."""
    areas = reference.liver.sum(axis=(0, 1))
    return frozenset({"liver_cut_off"} if max(areas[0], areas[-1]) > _CUT_OFF_SHARE * areas.max() else ())


def _averaged(voxels: npt.NDArray[np.int16], by: tuple[int, int, int]) -> npt.NDArray[np.int16]:
    i, j, k = (n // step for n, step in zip(voxels.shape, by, strict=True))
    part = voxels[: i * by[0], : j * by[1], : k * by[2]].reshape(i, by[0], j, by[1], k, by[2])
    return np.asfortranarray(np.rint(part.mean(axis=(1, 3, 5), dtype=np.float32)).astype(np.int16))


def _coarser(geometry: Geometry, by: tuple[int, int, int]) -> Geometry:
    i, j, k = (n // step for n, step in zip(geometry.shape, by, strict=True))
    affine = geometry.affine @ np.diag([*by, 1.0])
    affine[:3, 3] = geometry.to_mm([(step - 1) / 2 for step in by])
    return Geometry((i, j, k), affine)


Change = Callable[[Scan], Volume | None]
#: Centre and half-axes in a slice, mm.
Oval = tuple[float, float, float, float]


def _stored(codes: str) -> Change:
    return lambda scan: scan.volume.reoriented(codes)


def _clipped(low: float, high: float) -> Change:
    def make(scan: Scan) -> Volume | None:
        lost = scan.clipped and low < scan.volume.voxels.min()
        return None if lost else scan.of(scan.hounsfield.clip(low, high))

    return make


def _resampled(i: float, j: float, k: float) -> Change:
    def make(scan: Scan) -> Volume:
        values = ndimage.zoom(scan.hounsfield, (i, j, k), order=1, grid_mode=True, mode="nearest")
        factors = [old / new for old, new in zip(scan.volume.geometry.shape, values.shape, strict=True)]
        return scan.of(values, scan.volume.geometry.affine @ np.diag([*factors, 1.0]))

    return make


def _narrowed(scan: Scan) -> Volume:
    """The field of view ends at the skin."""
    i, j, _ = np.nonzero(scan.volume.voxels > -140)
    return scan.of(scan.volume.voxels[i.min() : i.max() + 1, j.min() : j.max() + 1])


def _widened(scan: Scan) -> Volume:
    lowest = int(scan.volume.voxels.min())
    return scan.of(np.pad(scan.volume.voxels, ((30, 10), (10, 30), (0, 0)), constant_values=lowest))


def _tilted(scan: Scan) -> Volume:
    angle = np.radians(8)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = scan.volume.geometry.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    return scan.of(scan.volume.voxels, affine)


def _around_the_liver(mm: float) -> Change:
    def make(scan: Scan) -> Volume | None:
        more = round(mm / scan.volume.geometry.spacing_mm[2])
        low, high = scan.level
        return scan.of(scan.volume.voxels[:, :, max(0, low - more) : high + more]) if scan.whole else None

    return make


AS_IT_IS = "as it is"
MILD: dict[str, Change] = {
    "stored as RAS": _stored("RAS"),
    "stored as LPI": _stored("LPI"),
    "stored as coronal": _stored("LIA"),
    "clipped to -160..240": _clipped(-160, 240),
    "clipped to -200..300": _clipped(-200, 300),
    "clipped to -150..200": _clipped(-150, 200),
    "noise of 10 HU": noisy(10),
    "grainy noise of 15 HU": noisy(15, 0.7),
    "smoothed": lambda scan: scan.of(ndimage.gaussian_filter(scan.hounsfield, (1.0, 1.0, 0.3))),
    "8 HU brighter": lambda scan: scan.of(scan.hounsfield + 8),
    "8 HU darker": lambda scan: scan.of(scan.hounsfield - 8),
    "thicker slices": _resampled(1, 1, 0.6),
    "thinner slices": _resampled(1, 1, 1.6),
    "larger pixels": _resampled(0.7, 0.7, 1),
    "oblong pixels": _resampled(0.8, 1.1, 1),
    "field of view to the skin": _narrowed,
    "wider field of view": _widened,
    "tilted by 8 degrees": _tilted,
    "20 mm around the liver": _around_the_liver(20),
    "60 mm around the liver": _around_the_liver(60),
}


def head(seed: int) -> Scan:
    """A crude head: skull, brain, no lungs, no liver."""
    return _shapes(f"head{seed}", seed, ((0.0, 0.0, 75.0, 95.0),), shell_mm=7.0)


def legs(seed: int) -> Scan:
    """Crude thighs: two cylinders of muscle with a bone in each, fat around."""
    return _shapes(f"legs{seed}", seed, ((-95.0, 0.0, 75.0, 80.0), (95.0, 0.0, 75.0, 80.0)), bone_mm=14.0)


def _shapes(name: str, seed: int, ovals: Sequence[Oval], shell_mm: float = 0.0, bone_mm: float = 0.0) -> Scan:
    rng = np.random.default_rng(seed)
    i, j = (np.indices((192, 192)) - 95.5) * 2.2
    plane = np.full((192, 192), -1000.0)
    for x, y, a, b in ovals:
        radius = np.hypot((i - x) / a, (j - y) / b)
        depth_mm = (1 - radius) * min(a, b)
        plane[depth_mm > 0] = -100 if bone_mm else 20
        plane[depth_mm > 6] = 800 if shell_mm else 55
        plane[depth_mm > 6 + shell_mm] = 38 if shell_mm else 55
        if bone_mm:
            plane[np.hypot(i - x, j - y) < bone_mm] = 700
    voxels = plane[:, :, None] + rng.normal(0, 8, (192, 192, 40))
    geometry = Geometry(voxels.shape, np.diag([-2.2, -2.2, 4.0, 1.0]))
    nothing = Segmentation(np.zeros(voxels.shape, np.uint8, order="F"), geometry)
    volume = Volume(np.asfortranarray(np.rint(voxels).astype(np.int16)), geometry)
    return replace(Scan(name, name, volume, nothing), synthetic=True)
