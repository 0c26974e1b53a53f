"""How well a segmentation agrees with a reference, for the liver and for its lesions.

Definitions, S being the segmentation and R the reference, counted in voxels:

dice                  2 |S ∩ R| / (|S| + |R|)
voe                   1 - |S ∩ R| / |S ∪ R|, the volumetric overlap error, 0 to 1
rvd                   (|S| - |R|) / |R|, the relative volume difference: positive if S is too large
volume_error_ml       |S| - |R| in ml; volume_error_percent of |R|
assd_mm               mean distance from each surface to the other, over both surfaces together
rmsd_mm               root of the mean square of these distances
hd95_mm, hd_mm        the larger of the two directed 95th percentiles, and of the two maxima
nsd_1mm … nsd_5mm     share of both surfaces that lies within so much of the other, the surface Dice

Distances are weighted by area; `app.imaging.distances` says how. Where S and R are both empty they agree: dice 1,
voe 0, volume error 0. What divides by an empty reference, or needs a surface that is not there, is null.
`app.matching` compares lesion by lesion.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, computed_field

from app.imaging.distances import SurfaceDistances, surface_distances
from app.imaging.region import bounding_box
from app.imaging.volume import Geometry, Label, Mask, Segmentation
from app.matching import Matched, match_lesions

Labels = npt.NDArray[np.uint8]


class MaskAgreement(BaseModel):
    """Agreement of one mask with its reference; the module says how each number is defined.

    What has a default is null in reports of older versions.
    """

    model_config = ConfigDict(frozen=True)

    dice: float = Field(ge=0, le=1)
    voe: float = Field(ge=0, le=1, description="Volumetric overlap error")
    rvd: float | None = Field(description="Relative volume difference; null if the reference is empty")
    assd_mm: float | None = Field(description="Average symmetric surface distance; null if a mask is empty")
    rmsd_mm: float | None = Field(default=None, description="Root mean square symmetric surface distance")
    hd95_mm: float | None = Field(description="95th percentile of the distances; null if a mask is empty")
    hd_mm: float | None = Field(default=None, description="Hausdorff distance: the largest of the distances")
    nsd_1mm: float | None = Field(default=None, description="Normalised surface Dice at 1 mm; null if a mask is empty")
    nsd_2mm: float | None = Field(default=None, description="at 2 mm")
    nsd_3mm: float | None = Field(default=None, description="at 3 mm")
    nsd_5mm: float | None = Field(default=None, description="at 5 mm")
    volume_error_ml: float
    voxels: int | None = Field(default=None, description="Of the segmentation")
    reference_voxels: int | None = None
    shared_voxels: int | None = Field(default=None, description="Of both; with it, Dice over many scans")

    @computed_field  # type: ignore[prop-decorator]  # mypy does not know decorated properties
    @property
    def volume_error_percent(self) -> float | None:
        """Volume error in percent of the reference; null if that is empty."""
        return None if self.rvd is None else 100 * self.rvd


class LesionAgreement(MaskAgreement, Matched):
    """All lesions together as one mask, and lesion by lesion."""


class Agreement(BaseModel):
    """Agreement with the reference that was sent along."""

    model_config = ConfigDict(frozen=True)

    liver: MaskAgreement
    lesion: LesionAgreement


def agree(segmentation: Segmentation, reference: Segmentation) -> Agreement:
    """Compare with a reference. Raises ValueError if the two do not lie on the same grid.

    What counts as one lesion in the segmentation does so in the reference.
    """
    if segmentation.geometry != reference.geometry:
        raise ValueError("segmentation and reference must lie on the same grid")
    reference = replace(reference, split_lesions=segmentation.split_lesions)
    labels, true_labels = _labelled_box(segmentation, reference)
    lesion = compare(labels == Label.LESION, true_labels == Label.LESION, reference.geometry)
    return Agreement(
        liver=compare(labels >= Label.LIVER, true_labels >= Label.LIVER, reference.geometry),
        lesion=LesionAgreement(**dict(lesion), **dict(match_lesions(segmentation, reference))),
    )


def compare(mask: Mask, reference: Mask, geometry: Geometry) -> MaskAgreement:
    """Compare two masks: bool, of one shape, any box of the grid of `geometry` that holds both."""
    size, true_size = int(np.count_nonzero(mask)), int(np.count_nonzero(reference))
    both = int(np.count_nonzero(mask & reference))
    union = size + true_size - both
    return MaskAgreement(
        dice=2 * both / (size + true_size) if union else 1.0,
        voe=1 - both / union if union else 0.0,
        rvd=(size - true_size) / true_size if true_size else None,
        volume_error_ml=(size - true_size) * geometry.voxel_volume_ml,
        voxels=size,
        reference_voxels=true_size,
        shared_voxels=both,
        **_distances(surface_distances(mask, reference, geometry) if size and true_size else None),
    )


def _distances(surfaces: SurfaceDistances | None) -> dict[str, float | None]:
    if surfaces is None:
        return {"assd_mm": None, "hd95_mm": None}
    return {
        "assd_mm": surfaces.mean_mm(),
        "rmsd_mm": surfaces.root_mean_square_mm(),
        "hd95_mm": surfaces.percentile_mm(0.95),
        "hd_mm": surfaces.percentile_mm(1.0),
        **{f"nsd_{tolerance}mm": surfaces.within(tolerance) for tolerance in (1, 2, 3, 5)},
    }


def _labelled_box(segmentation: Segmentation, reference: Segmentation) -> tuple[Labels, Labels]:
    """The labels of both in the smallest box outside which neither has any."""
    either = (segmentation.labels | reference.labels) > 0
    if not either.any():
        return segmentation.labels[:0], reference.labels[:0]
    box = bounding_box(either, reference.geometry.spacing_mm, 0.0)
    return segmentation.labels[box.slices], reference.labels[box.slices]
