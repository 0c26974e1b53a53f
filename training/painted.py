"""Synthetic lesions in the livers of patients kept out: how many are found, and what is marked, by size.

Real lesions of patients kept out are few, and none is labelled in most archives. A slice with lesions painted into it
lies between copies of itself, as far away as the planes that a lesion network sees, and the whole cascade looks at it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
import torch

from app.imaging.volume import Geometry, Volume
from training.datasets import Case
from training.preprocessing import PLANES_MM
from training.synthesis import Where, disc_diameter_mm, paint_lesions

Mask = npt.NDArray[np.bool_]
#: Upper ends of the size classes, mm; the size of an area is the diameter of a disc as large.
SIZE_CLASSES_MM = {"under 10 mm": 10.0, "10 to 20 mm": 20.0, "over 20 mm": float("inf")}
#: A lesion counts as found when at least this fraction of it is marked.
FOUND_FRACTION = 0.25
#: Slices of a whole volume that are painted into.
MOST_SLICES = 12
#: Slices with less liver than this are left out: the service refuses what is so small.
SMALLEST_LIVER_MM2 = 2500.0


@dataclass(frozen=True, eq=False)
class Painted:
    """A slice between two others as the service would read them; masks (rows, columns) of the slice in the middle.

    `true` is what was painted. `known`: lesions labelled before; marks on them are neither right nor wrong.
    """

    volume: Volume
    true: Mask
    known: Mask
    pixel_mm: float


def painted_slices(case: Case) -> Iterator[Painted]:
    """The painted slices of a case; the same for whatever network looks at them."""
    pixel_mm = case.spacing_kji_mm[1]
    areas_mm2 = (case.labels_kji >= 1).sum(axis=(1, 2)) * pixel_mm * case.spacing_kji_mm[2]
    at = np.flatnonzero(areas_mm2 >= SMALLEST_LIVER_MM2)
    if len(at) > MOST_SLICES:
        at = at[np.linspace(0, len(at) - 1, MOST_SLICES).round().astype(int)]
    torch.manual_seed(zlib.crc32(case.name.encode()))
    for k in at:
        painted = _painted(case.hounsfield_kji[k], case.labels_kji[k], pixel_mm)
        if painted.true.any():
            yield painted


def _painted(hounsfield: npt.NDArray[np.int16], labels: npt.NDArray[np.uint8], pixel_mm: float) -> Painted:
    planes = torch.tensor(np.stack([hounsfield] * len(PLANES_MM))[None], dtype=torch.float32)
    where = Where(torch.tensor([pixel_mm]), torch.tensor([False]))
    changed, _, new = paint_lesions(planes, torch.tensor(labels[None]), where, 1.0)
    stack_kji = changed[0, list(np.argsort(PLANES_MM))].round().clamp(-1024, 3071).to(torch.int16).numpy()
    affine = np.diag([-pixel_mm, -pixel_mm, max(PLANES_MM), 1.0])
    volume = Volume(np.asfortranarray(stack_kji.T), Geometry(stack_kji.T.shape, affine))
    return Painted(volume, new[0].numpy() & (labels == 1), labels == 2, pixel_mm)


def size_class(pixels: int, pixel_mm: float) -> str:
    """The class of an area of so many pixels."""
    diameter_mm = float(disc_diameter_mm(pixels, pixel_mm))
    return next(name for name, largest in SIZE_CLASSES_MM.items() if diameter_mm < largest)


@dataclass
class Counts:
    """Of a size class: lesions painted and found, marks and those that lie on a painted lesion."""

    painted: int = 0
    found: int = 0
    marks: int = 0
    true_marks: int = 0

    def rates(self) -> dict[str, Any]:
        """The counts with recall, precision and F1; None where there is nothing to divide by."""
        recall = self.found / self.painted if self.painted else None
        precision = self.true_marks / self.marks if self.marks else None
        f1 = None
        if recall is not None and precision is not None:
            f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        return {**vars(self), "recall": recall, "precision": precision, "f1": f1}


@dataclass
class PaintedScore:
    """What a cascade found of the painted lesions so far."""

    classes: dict[str, Counts] = field(default_factory=lambda: {name: Counts() for name in SIZE_CLASSES_MM})
    dice: list[float] = field(default_factory=list)

    def add(self, painted: Painted, found: Mask) -> None:
        """Count a slice; found: the lesions (rows, columns) that the cascade marked in it."""
        true = painted.true
        total = int(true.sum()) + int((found & ~painted.known).sum())
        self.dice.append(2 * int((found & true).sum()) / total)
        for lesion in _components(true):
            counts = self.classes[size_class(int(lesion.sum()), painted.pixel_mm)]
            counts.painted += 1
            counts.found += int(found[lesion].mean() >= FOUND_FRACTION)
        for mark in _components(found):
            if (mark & painted.known).any():
                continue
            counts = self.classes[size_class(int(mark.sum()), painted.pixel_mm)]
            counts.marks += 1
            counts.true_marks += int((mark & true).any())

    def result(self) -> dict[str, Any] | None:
        """The classes and all together; None if nothing was painted."""
        if not self.dice:
            return None
        every = Counts()
        for counts in self.classes.values():
            for name, value in vars(counts).items():
                setattr(every, name, getattr(every, name) + value)
        by_size = {name: counts.rates() for name, counts in self.classes.items()}
        return {
            "slices": len(self.dice), "slice_dice_mean": float(np.mean(self.dice)), "by_size": by_size,
            "all sizes": every.rates(),
        }  # fmt: skip


def _components(mask: Mask) -> Iterator[Mask]:
    ids, count = cc3d.connected_components(mask, connectivity=8, return_N=True)
    for n in range(1, count + 1):
        yield ids == n
