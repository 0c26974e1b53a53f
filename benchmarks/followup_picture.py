"""The picture of the section on follow-up in docs/answers.md: two dates of a phantom, seen from the front.

    python benchmarks/followup_picture.py [PATH]

Exits with 1 if a lesion of the phantom is told another fate than it had.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from deformed import FATES, two_dates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from app.followup.compare import follow_up
from app.followup.prior import Prior
from app.followup.result import FollowUp, LesionChange, MeasuredLesion
from app.imaging.lesions import number_lesions
from app.imaging.volume import Float64, Segmentation
from training.phantom import abdomen

COLOURS = {"unchanged": "#5b7083", "grown": "#c92a2a", "shrunk": "#2b8a3e", "new": "#e67700", "gone": "#1864ab"}
SEED, MOST_MM = 3, 10


def main(path: Path) -> int:
    """Compare, check, draw."""
    dates = two_dates(abdomen(SEED, (200, 170, 80), (1.9, 1.9, 2.5), noise_hu=0, lesions=5).truth, SEED, MOST_MM)
    found = follow_up(dates.current, Prior(dates.prior, "0" * 64), lambda _share: None)
    _draw(path, dates.prior, dates.current, found)
    of_prior = {p: [c for q, c in dates.links if q == p] for p in dates.fates}
    wrong = [row for row in found.lesions if row.prior and not _right(row, dates.fates, of_prior)]
    for row in wrong:
        print(f"{dates.fates[row.prior[0].id]}, but said to be {row.state}: lesion {row.prior[0].id} of the prior")
    return 1 if wrong or {row.state for row in found.lesions} != {*FATES, "new"} else 0


def _right(row: LesionChange, fates: dict[int, str], of_prior: dict[int, list[int]]) -> bool:
    (lesion,) = row.prior
    # A small lesion may change by less than is uncertain.
    within = row.state == "unchanged" and fates[lesion.id] in ("grown", "shrunk")
    return (row.state == fates[lesion.id] or within) and [each.id for each in row.current] == of_prior[lesion.id]


def _draw(path: Path, prior: Segmentation, current: Segmentation, found: FollowUp) -> None:
    mpl.rcParams["font.size"] = 9
    figure, (then, now) = plt.subplots(1, 2, figsize=(9.6, 4.6), layout="constrained")
    _date(then, prior, [(each, row) for row in found.lesions for each in row.prior], "then")
    _date(now, current, [(each, row) for row in found.lesions for each in row.current], "now")
    for row in found.lesions:
        if row.state == "gone":
            x, _, z = row.where_mm
            radius = (row.volume_ml.prior * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
            now.add_patch(plt.Circle((x, z), radius, fill=False, linestyle="--", color=COLOURS["gone"]))
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colour) for colour in COLOURS.values()]
    figure.legend(handles, COLOURS, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=100)


def _date(axes: Axes, scan: Segmentation, lesions: list[tuple[MeasuredLesion, LesionChange]], title: str) -> None:
    """The liver's and the lesions' voxels as dots, seen from the front: right is left, the head is up."""
    x, _, z = _points(scan, scan.labels > 0).T
    axes.scatter(x, z, s=11, marker="s", linewidths=0, color="#ece2da")
    ids = number_lesions(scan).on_grid
    for lesion, row in lesions:
        points = _points(scan, ids == lesion.id)
        axes.scatter(points[:, 0], points[:, 2], s=11, marker="s", linewidths=0, color=COLOURS.get(row.state, "black"))
        middle, text = points.mean(axis=0), f"{lesion.id}: {lesion.volume_ml:.1f} ml"
        box = {"boxstyle": "round,pad=0.15", "color": "white", "alpha": 0.8}
        axes.annotate(text, (middle[0], middle[2]), (9, 6), textcoords="offset points", fontsize=8, bbox=box)
    axes.invert_xaxis()
    axes.set_aspect("equal")
    axes.set_title(title)
    axes.set_xlabel("mm to the patient's right")
    axes.set_ylabel("mm to the head")


def _points(scan: Segmentation, mask: np.ndarray) -> Float64:
    return scan.geometry.to_mm(np.argwhere(mask))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures/follow-up.png")))
