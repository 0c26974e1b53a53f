"""The worst cases as pictures, to be looked at: they show patients, and so they belong into runs/ and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from app.imaging.atomic import written_whole

#: Slices on a sheet: those with most wrong pixels.
SLICES = 4
WINDOW_HU = (-100, 240)
#: label → colour of its outline in the reference and in what was found.
COLOURS = {1: ("#00c000", "#ff4040"), 2: ("#00d0ff", "#ffb000")}


@dataclass(frozen=True, eq=False)
class Sheet:
    """The worst slices of a case: HU int16 and labels uint8, all (n, rows, columns), and their numbers in it."""

    name: str
    dice: float
    numbers: tuple[int, ...]
    hounsfield: npt.NDArray[np.int16]
    reference: npt.NDArray[np.uint8]
    found: npt.NDArray[np.uint8]


@dataclass
class WorstCases:
    """Keeps the sheets of the cases with the lowest Dice; label: 1 for the liver with its lesions, 2 for lesions."""

    label: int = 1
    most: int = 12
    sheets: list[Sheet] = field(default_factory=list)

    def add(
        self,
        name: str,
        dice: float,
        hounsfield_kji: npt.NDArray[np.int16],
        reference_kji: npt.NDArray[np.uint8],
        found_kji: npt.NDArray[np.uint8],
    ) -> None:
        """Look at a case; keeps copies of a few slices if it is among the worst so far."""
        wrong = ((reference_kji >= self.label) != (found_kji >= self.label)).sum(axis=(1, 2))
        at = np.sort(np.argsort(wrong, kind="stable")[-SLICES:])
        self.sheets.append(Sheet(name, dice, tuple(at.tolist()), hounsfield_kji[at], reference_kji[at], found_kji[at]))
        self.sheets = sorted(self.sheets, key=lambda sheet: sheet.dice)[: self.most]

    def write(self, folder: Path) -> list[Path]:
        """Draw the sheets, the worst first by name; those of an earlier evaluation are removed."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("[0-9][0-9]-*.png"):
            old.unlink()
        return [_draw(sheet, folder, rank) for rank, sheet in enumerate(self.sheets, start=1)]


def _draw(sheet: Sheet, folder: Path, rank: int) -> Path:
    figure = Figure(figsize=(9, 9.6), dpi=100, layout="constrained")
    figure.suptitle(f"{sheet.name}: Dice {sheet.dice:.3f}")
    for place, number in enumerate(sheet.numbers):
        axes = figure.add_subplot(2, 2, place + 1)
        axes.imshow(sheet.hounsfield[place], cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
        axes.set(title=f"slice {number}", xticks=[], yticks=[])
        for labels, which in ((sheet.reference[place], 0), (sheet.found[place], 1)):
            for label, colours in COLOURS.items():
                inside = labels >= label
                if inside.any() and not inside.all():
                    axes.contour(inside.astype(np.float32), [0.5], colors=[colours[which]], linewidths=0.8)
    names = ("liver, reference", "liver, found", "lesion, reference", "lesion, found")
    lines = [Line2D([], [], color=colour) for pair in COLOURS.values() for colour in pair]
    figure.legend(lines, names, loc="outside lower center", ncols=4)
    path = folder / f"{rank:02d}-{sheet.dice:.3f}-{re.sub(r'[^A-Za-z0-9._-]+', '_', sheet.name)}.png"
    with written_whole(path) as file:
        figure.savefig(file, format="png")
    return path
