"""The prepared form of the cases: slices on one small grid in memory-mapped arrays, so that two cores stay busy.

A pack is a folder with `hounsfield.npy` int16 (N, P, 256, 256), `labels.npy` uint8 (N, 256, 256) and `index.json`, one
entry per slice. P is 1 for the liver, and for lesions the planes of `preprocessing.slabs`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from app.imaging.atomic import write_text
from app.imaging.region import bounding_box
from training.datasets import Case
from training.preprocessing import CONTEXT_MM, PLANES_MM, SLAB_RANGE_HU, resized, slabs
from training.stack import Stack, rows_written

PACK_SIZE = 256
#: A region beyond the liver's own box, so that augmentation can move the crop, mm.
LESION_MARGIN_MM = 20.0
#: Slices of one phantom that are kept.
PHANTOM_SLICES = 8
#: Sources whose slices come without their neighbours.
SINGLE_SLICES = ("spread", "negative")
#: A liver that would be flatter has lost the true distance of its slices; then they are taken to be thick ones, mm.
FLATTEST_LIVER_MM = 60.0
THICK_MM = 5.0


@dataclass(frozen=True)
class Entry:
    """Where a slice of a pack comes from. `pixel_mm`: rows, columns; nominal where the source has lost it."""

    case: str
    patient: str
    source: str
    lesions_labelled: bool
    pixel_mm: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Pack:
    """Slices ready for training: hounsfield int16 (N, P, H, W), labels uint8 (N, H, W), an entry each."""

    hounsfield: Stack
    labels: Stack
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, hounsfield: npt.NDArray[np.int16], labels: npt.NDArray[np.uint8], entries: tuple[Entry, ...]) -> Pack:
        """A pack of arrays in memory."""
        return cls(Stack([hounsfield]), Stack([labels]), entries)

    def chosen(self, keep: list[bool]) -> Pack:
        """The slices for which `keep` is true; nothing is read."""
        at = np.flatnonzero(keep)
        return Pack(self.hounsfield.chosen(at), self.labels.chosen(at), tuple(self.entries[n] for n in at))


def slice_distance_mm(case: Case) -> float:
    """The stated distance of slices, or THICK_MM where it would make the liver flatter than one can be."""
    slice_mm = case.spacing_kji_mm[0]
    with_liver = int((case.labels_kji >= 1).any(axis=(1, 2)).sum())
    return max(slice_mm, THICK_MM) if with_liver > 1 and with_liver * slice_mm < FLATTEST_LIVER_MM else slice_mm


def _planes(case: Case, part: slice, slice_mm: float) -> Tensor:
    """What a lesion network sees of some slices, HU float32 (n, P, H, W); slices without neighbours are their own."""
    if case.source in SINGLE_SLICES:
        alone = torch.from_numpy(case.hounsfield_kji[part].astype(np.float32)).clamp(*SLAB_RANGE_HU)
        return alone[:, None].repeat(1, len(PLANES_MM), 1, 1)
    reach = math.ceil(CONTEXT_MM / slice_mm)
    read = slice(max(0, part.start - reach), part.stop + reach)
    wanted = torch.arange(part.start - read.start, part.stop - read.start)
    return slabs(torch.from_numpy(case.hounsfield_kji[read].astype(np.float32)), wanted, torch.tensor(slice_mm))


def on_pack_grid(case: Case, task: str) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """The slices of a case at 256x256: grey values antialiased, a label where it covers half of the pixel."""
    hounsfields, labels = [], []
    size, slice_mm = (PACK_SIZE, PACK_SIZE), slice_distance_mm(case)
    for start in range(0, len(case.labels_kji), 16):
        part = slice(start, min(start + 16, len(case.labels_kji)))
        hounsfield = torch.from_numpy(case.hounsfield_kji[part].astype(np.float32)).clamp(-1024, 3071)
        planes = _planes(case, part, slice_mm) if task == "lesion" else hounsfield[:, None]
        truth = torch.from_numpy(case.labels_kji[part].copy())
        covered = resized(torch.stack((truth >= 1, truth == 2), dim=1).to(torch.float32), size) > 0.5
        hounsfields.append(resized(planes, size).round().to(torch.int16).numpy())
        labels.append((covered[:, 0].to(torch.uint8) + (covered[:, 1] & covered[:, 0]).to(torch.uint8)).numpy())
    return np.concatenate(hounsfields), np.concatenate(labels)


def liver_region(case: Case) -> Case | None:
    """The case cut to the box around its liver; None where there is no liver."""
    liver = case.labels_kji >= 1
    if not liver.any():
        return None
    region = bounding_box(liver, case.spacing_kji_mm, LESION_MARGIN_MM).slices
    return replace(case, hounsfield_kji=case.hounsfield_kji[region], labels_kji=case.labels_kji[region])


def _kept(case: Case, task: str) -> npt.NDArray[np.intp]:
    """Which slices go into the pack: of lesions those with liver, of a phantom a few."""
    counts = np.count_nonzero(case.labels_kji, axis=(1, 2))
    at = np.flatnonzero(counts) if task == "lesion" else np.arange(len(counts))
    if case.source != "phantom" or len(at) <= PHANTOM_SLICES:
        return at
    chosen = np.linspace(0, len(at) - 1, PHANTOM_SLICES).round().astype(np.intp)
    return np.take(at, chosen)


def write_pack(folder: Path, cases: Iterable[Case], task: str) -> int:
    """Write the slices of the cases for "liver" (whole slices) or "lesion" (liver regions); returns how many.

    One case is in memory at a time. The index is written last: without it there is no pack.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    entries: list[Entry] = []
    with rows_written(folder / "hounsfield.npy") as hounsfields, rows_written(folder / "labels.npy") as labels:
        for whole in cases:
            case = liver_region(whole) if task == "lesion" else whole
            if case is None:
                continue
            rows, columns = case.labels_kji.shape[1:]
            pixel_mm = (case.spacing_kji_mm[1] * rows / PACK_SIZE, case.spacing_kji_mm[2] * columns / PACK_SIZE)
            hounsfield, label = on_pack_grid(case, task)
            kept = _kept(case, task)
            hounsfields.append(hounsfield[kept])
            labels.append(label[kept])
            entries += [Entry(case.name, case.patient, case.source, case.lesions_labelled, pixel_mm)] * len(kept)
    if entries:
        write_text(folder / "index.json", json.dumps([asdict(entry) for entry in entries]))
    return len(entries)


def _folders(root: Path, task: str) -> Iterator[Path]:
    yield from sorted(path.parent for path in (root / task).glob("*/index.json"))


def read_packs(root: Path, task: str) -> Pack:
    """All packs of a task under the cache root as one; raises FileNotFoundError before `prepare` has run."""
    hounsfields, labels, entries = [], [], []
    for folder in _folders(root, task):
        hounsfields.append(np.load(folder / "hounsfield.npy", mmap_mode="r"))
        labels.append(np.load(folder / "labels.npy", mmap_mode="r"))
        stored = json.loads((folder / "index.json").read_text())
        entries += [Entry(**{**entry, "pixel_mm": tuple(entry["pixel_mm"])}) for entry in stored]
    if not entries:
        raise FileNotFoundError(f"no prepared {task} slices under {root}: run `python -m training prepare` first")
    return Pack(Stack(hounsfields), Stack(labels), tuple(entries))
