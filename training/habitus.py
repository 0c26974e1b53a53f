"""What a phantom is to look like: the standard body, and random ones for training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.anatomy import Habitus
from training.tissue import Point, Tissue

#: HU of each tissue in the portal-venous phase. Spleen lies above every part of the liver, muscle below every
#: lesion, so that thresholds can pick the liver and its lesions (`training.phantom.LIVER_RANGE_HU`).
HOUNSFIELD: dict[Tissue, float] = {
    Tissue.AIR: -1000,
    Tissue.TABLE: 180,
    Tissue.SKIN: 10,
    Tissue.FAT: -105,
    Tissue.MUSCLE: 52,
    Tissue.VISCERAL_FAT: -100,
    Tissue.LUNG: -860,
    Tissue.CORTICAL_BONE: 620,
    Tissue.MARROW: 190,
    Tissue.DISC: 58,
    Tissue.CANAL: 25,
    Tissue.AORTA: 160,
    Tissue.VENA_CAVA: 140,
    Tissue.HEART: 138,
    Tissue.LIVER: 105,
    Tissue.LIVER_VESSEL: 126,
    Tissue.LESION: 70,
    Tissue.GALLBLADDER: 8,
    Tissue.SPLEEN: 134,
    Tissue.BYSTANDER: 64,
    Tissue.KIDNEY_CORTEX: 175,
    Tissue.KIDNEY_MEDULLA: 145,
    Tissue.BOWEL_WALL: 55,
    Tissue.BOWEL_CONTENT: 22,
    Tissue.BOWEL_CONTRAST: 320,
    Tissue.GAS: -950,
    Tissue.PANCREAS: 57,
    Tissue.VESSEL: 150,
    Tissue.ADRENAL: 50,
}
#: Diameters of the first lesions in mm; later ones start again at half the size.
DIAMETERS_MM = (36.0, 24.0, 17.0, 28.0, 13.0)


@dataclass(frozen=True)
class Plan:
    """Everything that `randomise` varies."""

    habitus: Habitus = field(default_factory=Habitus)
    hounsfield: dict[Tissue, float] = field(default_factory=lambda: dict(HOUNSFIELD))
    scale: Point = (1.0, 1.12, 1.0)
    shift_mm: Point = (0.0, 0.0, 0.0)
    rotation_rad: float = 0.0
    bend_mm: float = 5.0
    lesions: tuple[PlannedLesion, ...] = ()
    texture_hu: float = 2.5
    blur_voxels: tuple[float, float] = (0.55, 0.35)
    grain_mm: float = 0.7


@dataclass(frozen=True)
class PlannedLesion:
    """A lesion that still needs a place.

    rim_hu: HU of its outer third. soft: 0 sharp … 1 fades towards its edge. ragged: 0 is an ellipsoid.
    inside: how much of it must lie in the liver; the rest is cut off.
    """

    radii_mm: Point
    hu: float
    rim_hu: float | None = None
    soft: float = 0.0
    ragged: float = 0.0
    inside: float = 1.0


def standard_plan(lesions: int, spacing_mm: Point, room: float) -> Plan:
    """The body of the demonstration: sharp, round lesions, none smaller than a voxel."""
    planned = []
    for n in range(lesions):
        diameter = DIAMETERS_MM[n % len(DIAMETERS_MM)] / (1 + n // len(DIAMETERS_MM)) * room
        radius = max(diameter / 2, 1.1 * max(spacing_mm))
        planned.append(PlannedLesion((radius, 0.88 * radius, 0.94 * radius), float(HOUNSFIELD[Tissue.LESION])))
    return Plan(lesions=tuple(planned))


def random_plan(rng: np.random.Generator, lesions: int) -> Plan:
    """Another patient, another scanner, up to so many lesions of 4 to 50 mm."""
    hounsfield = _random_hounsfield(rng)
    liver = hounsfield[Tissue.LIVER]
    sx, sy = rng.uniform(0.84, 1.14), rng.uniform(0.9, 1.25)
    habitus = Habitus(
        fat_mm=rng.uniform(4, 32),
        diaphragm_mm=rng.uniform(-18, 16),
        liver=rng.uniform(0.86, 1.14),
        left_lobe=rng.uniform(0.65, 1.25),
        spleen=rng.uniform(0.65, 1.25),
        kidneys=rng.uniform(0.75, 1.15),
        stomach_gas=rng.uniform(0, 0.8),
        bowel_loops=int(rng.integers(30, 110)),
        arms=bool(rng.random() < 0.3),
        table_mm=rng.uniform(118, 145),
    )
    return Plan(
        habitus=habitus,
        hounsfield=hounsfield,
        scale=(sx, sy, rng.uniform(0.85, 1.2)),
        shift_mm=(rng.normal(0, 12), rng.normal(0, 10), rng.uniform(-55, 45)),
        rotation_rad=rng.normal(0, 0.06),
        bend_mm=rng.uniform(3, 8),
        lesions=tuple(_random_lesion(rng, liver) for _ in range(int(rng.integers(0, lesions + 1)))),
        texture_hu=rng.uniform(1, 5),
        blur_voxels=(rng.uniform(0.4, 0.9), rng.uniform(0.0, 0.6)),
        grain_mm=rng.uniform(0.4, 1.1),
    )


def _random_hounsfield(rng: np.random.Generator) -> dict[Tissue, float]:
    """Unenhanced to late portal-venous; one liver in six is fatty."""
    enhancement = rng.uniform(0, 1.3)
    unenhanced = {
        Tissue.LIVER: 58, Tissue.LIVER_VESSEL: 42, Tissue.SPLEEN: 48, Tissue.AORTA: 42, Tissue.VENA_CAVA: 42,
        Tissue.HEART: 42, Tissue.VESSEL: 42, Tissue.KIDNEY_CORTEX: 34, Tissue.KIDNEY_MEDULLA: 32,
        Tissue.PANCREAS: 40, Tissue.MUSCLE: 50, Tissue.BOWEL_WALL: 38, Tissue.ADRENAL: 30,
    }  # fmt: skip
    hounsfield: dict[Tissue, float] = {}
    for tissue, hu in HOUNSFIELD.items():
        start = unenhanced.get(tissue, hu)
        hounsfield[tissue] = start + enhancement * (hu - start) + rng.normal(0, 6)
    hounsfield[Tissue.PANCREAS] += 40 * enhancement
    if rng.random() < 1 / 6:
        hounsfield[Tissue.LIVER] -= rng.uniform(20, 65)
    hounsfield[Tissue.LIVER_VESSEL] += enhancement * rng.uniform(0, 45)
    hounsfield[Tissue.AIR] = -1000.0
    return hounsfield


def _random_lesion(rng: np.random.Generator, liver_hu: float) -> PlannedLesion:
    radius = 0.5 * float(np.exp(rng.uniform(np.log(4), np.log(50))))
    x, y, z = radius * rng.uniform(0.75, 1.25, 3)
    contrast = rng.uniform(15, 60) if rng.random() < 0.15 else -rng.uniform(15, 75)
    rim = liver_hu + rng.uniform(-10, 35) if rng.random() < 0.2 else None
    return PlannedLesion(
        (x, y, z), liver_hu + contrast, rim, soft=rng.uniform(0, 0.8), ragged=rng.uniform(0, 0.6), inside=0.6
    )
