"""What measuring and comparing cost on a 512x512x130 scan, and the picture of docs/answers.md.

    python benchmarks/answers.py [--picture docs/pictures/lesions.png]

Prints the best of five, wall and CPU milliseconds, of each part by itself. Exits with 1 if the lesions of the phantom
are not measured as they were put in.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from app.agreement import agree
from app.imaging.diameters import axial_diameters
from app.imaging.evidence import Evidence
from app.imaging.lesions import number_lesions
from app.imaging.likelihood import likelihood
from app.imaging.surfaces import Capsule, area_mm2, corners_mm, direction_weights
from app.imaging.volume import Geometry, Label, Segmentation, Volume
from app.preview import write_differences
from app.report import measure
from training.phantom import Phantom, abdomen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHAPE, SPACING_MM = (512, 512, 130), (0.75, 0.75, 2.0)
ROUNDS = 5


def scanned() -> tuple[Phantom, Segmentation]:
    """A phantom with ten lesions, and a segmentation of it with a probability that falls off at their edges."""
    phantom = abdomen(1, SHAPE, SPACING_MM, noise_hu=12.0, lesions=10)
    truth = phantom.truth
    box = truth.box
    assert box is not None
    blurred = gaussian_filter((truth.labels[box.slices] == Label.LESION).astype(np.float32), (2, 2, 0.8))
    labels = np.array(np.minimum(truth.labels, 1), order="F")
    inside = labels[box.slices]
    inside[(blurred >= 0.5) & (inside > 0)] = Label.LESION
    return phantom, Segmentation(labels, truth.geometry, Evidence(np.asfortranarray(blurred), box, 0.5))


def timed(name: str, work: Callable[[], object]) -> None:
    """Print the best of some rounds."""
    wall, cpu = [], []
    for _ in range(ROUNDS):
        started, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    print(f"| {name} | {1000 * min(wall):.0f} | {1000 * min(cpu):.0f} |")


def costs(phantom: Phantom, segmentation: Segmentation, folder: Path) -> None:
    """A row for each part. A fresh segmentation each time: what it knows of itself is found once."""
    numbered = number_lesions(segmentation)
    geometry, weights = segmentation.geometry, direction_weights(segmentation.geometry)
    masks = [(numbered.mask(n), numbered.boxes[n - 1].start) for n in range(1, len(numbered.boxes) + 1)]
    capsule, corners = Capsule(segmentation), [corners_mm(np.pad(mask, 1), geometry, at) for mask, at in masks]
    print(f"{len(masks)} lesions\n\n| part | wall ms | CPU ms |\n|---|---|---|")
    timed("measure, all of it", lambda: measure(replace(segmentation), phantom.volume))
    timed("of it: find and number lesions", lambda: number_lesions(replace(segmentation)))
    timed("of it: diameters with their ends", lambda: [axial_diameters(mask, geometry, at) for mask, at in masks])
    timed("of it: volumes at further thresholds", lambda: likelihood(numbered, segmentation))
    timed("of it: the capsule", lambda: Capsule(segmentation))
    timed("of it: distances to it", lambda: [capsule.distance_mm(each) for each in corners])
    timed("of it: sphericity", lambda: [area_mm2(mask, geometry, weights) for mask, _ in masks])
    split = replace(segmentation, split_lesions=True)
    timed("the same with touching lesions split", lambda: measure(replace(split), phantom.volume))
    timed("agree with a reference", lambda: agree(replace(segmentation), phantom.truth))
    path = folder / "differences.png"
    timed("the picture of differences", lambda: write_differences(path, phantom.volume, segmentation, phantom.truth))


def is_right(phantom: Phantom) -> bool:
    """Whether each lesion of the phantom is as large, as long and where it was put.

    Volumes within 5 %, of lesions under 10 mm within 10 %: so much do voxels of 2 mm make of so small a ball.
    """
    found = measure(phantom.truth, phantom.volume).lesions
    for made in phantom.lesions:
        lesion = min(found, key=lambda each: float(np.linalg.norm(np.subtract(each.centroid_mm, made.centre_mm))))
        volume_ml = 4 / 3 * np.pi * np.prod(made.radii_mm) / 1000
        away_mm = float(np.linalg.norm(np.subtract(lesion.centroid_mm, made.centre_mm)))
        allowed = 0.05 if 2 * max(made.radii_mm) >= 10 else 0.1
        if abs(lesion.volume_ml / volume_ml - 1) > allowed or away_mm > 1.0:
            return False
        if abs(lesion.longest_axial_diameter_mm - 2 * max(made.radii_mm[:2])) > 1.5:
            return False
    return len(found) == len(phantom.lesions)


def picture(path: Path, phantom: Phantom, segmentation: Segmentation) -> None:
    """The largest lesion with its thresholds and diameters, and two balls that touch, as one lesion and as two."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    draw_lesion(panels[0], phantom.volume, segmentation)
    balls = touching_balls()
    for panel, split in zip(panels[1:], (False, True), strict=True):
        ids = number_lesions(replace(balls, split_lesions=split)).on_grid[:, :, 15].T
        panel.imshow(np.ma.masked_equal(ids, 0), cmap="Set1", vmin=1, vmax=9, interpolation="nearest")
        panel.set_title(f"HEPASEG_SPLIT_LESIONS={str(split).lower()}", size=10)
        panel.set_axis_off()
    figure.savefig(path, dpi=100)


def draw_lesion(panel: Axes, volume: Volume, segmentation: Segmentation) -> None:
    """Contours at t/2, t and (1 + t)/2 and the two chords, in the slice of the longest diameter."""
    lesion = max(measure(segmentation, volume).lesions, key=lambda each: each.capsule_distance_mm or 0)
    evidence, k = segmentation.evidence, lesion.axial_slice
    assert evidence is not None
    assert k is not None
    panel.imshow(volume.voxels[:, :, k].T, cmap="gray", vmin=-20, vmax=200)
    probability = np.zeros(volume.geometry.shape[:2])
    probability[evidence.box.slices[:2]] = evidence.probability[:, :, k - evidence.box.start[2]]
    t = evidence.threshold
    panel.contour(probability.T, [t / 2, t, (1 + t) / 2], colors=["#ffd166", "#ef476f", "#06d6a0"], linewidths=1.2)
    to_voxels = np.linalg.inv(volume.geometry.affine)
    for ends in filter(None, (lesion.longest_ends_mm, lesion.perpendicular_ends_mm)):
        i, j, _ = to_voxels[:3, :3] @ np.array(ends).T + to_voxels[:3, 3:]
        panel.plot(i, j, "o-", color="white", markersize=3, linewidth=1)
    i, j, _ = to_voxels[:3, :3] @ lesion.centroid_mm + to_voxels[:3, 3]
    reach = lesion.longest_axial_diameter_mm / volume.geometry.spacing_mm[0]
    panel.set(xlim=(i - reach, i + reach), ylim=(j + reach, j - reach), xticks=[], yticks=[])
    low, high = lesion.volume_interval_ml or (0.0, 0.0)
    panel.set_title(
        f"{lesion.volume_ml:.2f} ml ({low:.2f} at green, {high:.2f} at yellow), "
        f"{lesion.longest_axial_diameter_mm:.1f} x {lesion.perpendicular_diameter_mm:.1f} mm,\n"
        f"sphericity {lesion.sphericity:.2f}, {lesion.capsule_distance_mm:.1f} mm to the capsule, "
        f"probability {lesion.mean_probability:.2f}",
        size=9,
    )


def touching_balls() -> Segmentation:
    """Two balls of 12 and 9 mm that overlap by a millimetre and a half."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (60, 40, 30)], indexing="ij"), axis=-1)
    made = (((18, 18, 15), 12), ((37, 23, 15), 9))
    balls = [((grid - centre) ** 2).sum(axis=-1) <= radius**2 for centre, radius in made]
    labels = np.where(binary_dilation(balls[0] | balls[1], iterations=2), 1, 0)
    labels[balls[0] | balls[1]] = 2
    return Segmentation(np.asfortranarray(labels, np.uint8), Geometry(labels.shape, np.diag([-1.0, -1.0, 1.0, 1.0])))


def main() -> None:
    """Measure, draw if asked to, and say whether the phantom's lesions came out right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="where to draw the picture; nothing is timed then")
    options = parser.parse_args()
    phantom, segmentation = scanned()
    if options.picture:
        picture(options.picture, phantom, segmentation)
    else:
        with tempfile.TemporaryDirectory() as folder:
            costs(phantom, segmentation, Path(folder))
    sys.exit(0 if is_right(phantom) else 1)


if __name__ == "__main__":
    main()
