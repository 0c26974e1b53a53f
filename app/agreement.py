"""How well a segmentation agrees with a reference, for the liver and for its lesions.

Definitions, S being the segmentation and R the reference:

dice             2 |S ∩ R| / (|S| + |R|)
voe              1 - |S ∩ R| / |S ∪ R|, the volumetric overlap error, 0 to 1
rvd              (|S| - |R|) / |R|, the relative volume difference: positive if S is too large
volume_error_ml  |S| - |R| in ml
assd_mm          mean distance from each surface to the other, over both surfaces together, by area
hd95_mm          the larger of the two directed 95th percentiles of these distances, by area

Surfaces and their areas are those of DeepMind's `surface-distance`: elements at the corners between voxels, so that on
an anisotropic grid a surface counts by its area and not by its voxels. Where S and R are both empty they agree: dice 1,
voe 0, volume error 0. What divides by an empty reference, or needs a surface that is not there, is null.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, computed_field
from scipy.spatial import cKDTree
from surface_distance import lookup_tables

from app.imaging.lesions import number_lesions
from app.imaging.region import bounding_box
from app.imaging.volume import Float64, Geometry, Label, Mask, Segmentation

Labels = npt.NDArray[np.uint8]


class MaskAgreement(BaseModel):
    """Agreement of one mask with its reference; the module says how each number is defined."""

    model_config = ConfigDict(frozen=True)

    dice: float = Field(ge=0, le=1)
    voe: float = Field(ge=0, le=1, description="Volumetric overlap error")
    rvd: float | None = Field(description="Relative volume difference; null if the reference is empty")
    assd_mm: float | None = Field(description="Average symmetric surface distance; null if a mask is empty")
    hd95_mm: float | None = Field(description="95th percentile of the distances; null if a mask is empty")
    volume_error_ml: float


class LesionMatches(BaseModel):
    """Lesion by lesion: two match if they share a voxel, and one may match several.

    found_count: lesions of the reference that a predicted one matches. true_count: predicted lesions that one of the
    reference matches.
    """

    model_config = ConfigDict(frozen=True)

    reference_count: int = Field(ge=0)
    predicted_count: int = Field(ge=0)
    found_count: int = Field(ge=0)
    true_count: int = Field(ge=0)

    @computed_field  # type: ignore[prop-decorator]  # mypy does not know decorated properties
    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that are lesions; null if none was predicted."""
        return self.true_count / self.predicted_count if self.predicted_count else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def recall(self) -> float | None:
        """Share of the reference's lesions that were found; null if there are none."""
        return self.found_count / self.reference_count if self.reference_count else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; 0 if nothing matches, null if there is nothing to match."""
        if not self.reference_count and not self.predicted_count:
            return None
        precision, recall = self.precision or 0.0, self.recall or 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class LesionAgreement(MaskAgreement):
    """All lesions together as one mask, and lesion by lesion."""

    by_lesion: LesionMatches


class Agreement(BaseModel):
    """Agreement with the reference that was sent along."""

    model_config = ConfigDict(frozen=True)

    liver: MaskAgreement
    lesion: LesionAgreement


def agree(segmentation: Segmentation, reference: Segmentation) -> Agreement:
    """Compare with a reference. Raises ValueError if the two do not lie on the same grid."""
    if segmentation.geometry != reference.geometry:
        raise ValueError("segmentation and reference must lie on the same grid")
    labels, true_labels = _labelled_box(segmentation, reference)
    lesion = compare(labels == Label.LESION, true_labels == Label.LESION, reference.geometry)
    return Agreement(
        liver=compare(labels >= Label.LIVER, true_labels >= Label.LIVER, reference.geometry),
        lesion=LesionAgreement(**lesion.model_dump(), by_lesion=_match(segmentation, reference)),
    )


def compare(mask: Mask, reference: Mask, geometry: Geometry) -> MaskAgreement:
    """Compare two masks: bool, of one shape, any box of the grid of `geometry` that holds both."""
    size, true_size = int(np.count_nonzero(mask)), int(np.count_nonzero(reference))
    both = int(np.count_nonzero(mask & reference))
    union = size + true_size - both
    surfaces = _distances(mask, reference, geometry) if size and true_size else None
    return MaskAgreement(
        dice=2 * both / (size + true_size) if union else 1.0,
        voe=1 - both / union if union else 0.0,
        rvd=(size - true_size) / true_size if true_size else None,
        assd_mm=surfaces.assd_mm if surfaces else None,
        hd95_mm=surfaces.hd95_mm if surfaces else None,
        volume_error_ml=(size - true_size) * geometry.voxel_volume_ml,
    )


def _labelled_box(segmentation: Segmentation, reference: Segmentation) -> tuple[Labels, Labels]:
    """The labels of both in the smallest box outside which neither has any."""
    either = (segmentation.labels | reference.labels) > 0
    if not either.any():
        return segmentation.labels[:0], reference.labels[:0]
    box = bounding_box(either, reference.geometry.spacing_mm, 0.0)
    return segmentation.labels[box.slices], reference.labels[box.slices]


class _Distances(NamedTuple):
    assd_mm: float
    hd95_mm: float


class _Surface(NamedTuple):
    points_mm: Float64  # (n, 3), RAS
    areas_mm2: Float64  # (n,)


def _distances(mask: Mask, reference: Mask, geometry: Geometry) -> _Distances:
    one, other = _surface(mask, geometry), _surface(reference, geometry)
    there, back = _nearest(one, other), _nearest(other, one)
    area = one.areas_mm2.sum() + other.areas_mm2.sum()
    return _Distances(
        assd_mm=float((there @ one.areas_mm2 + back @ other.areas_mm2) / area),
        hd95_mm=max(_percentile(there, one.areas_mm2, 0.95), _percentile(back, other.areas_mm2, 0.95)),
    )


def _surface(mask: Mask, geometry: Geometry) -> _Surface:
    """The corners between voxels where a mask has its surface, and the area that each stands for.

    The surface is closed: it also runs along the edge of the scan.
    """
    box = bounding_box(mask, geometry.spacing_mm, 0.0)
    padded = np.pad(mask[box.slices].astype(np.uint8), 1)
    a, b, c = (n - 1 for n in padded.shape)
    code = np.zeros((a, b, c), dtype=np.uint8)
    for (i, j, k), bit in np.ndenumerate(lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL):
        code += np.uint8(bit) * padded[i : i + a, j : j + b, k : k + c]
    corners = np.argwhere((code != 0) & (code != 255))
    area_of = lookup_tables.create_table_neighbour_code_to_surface_area(geometry.spacing_mm)
    areas: npt.NDArray[np.float64] = area_of[code[tuple(corners.T)]]
    return _Surface(geometry.to_mm(corners + box.start - 0.5), areas)


def _nearest(surface: _Surface, other: _Surface) -> Float64:
    """Distance in mm from each point of a surface to the nearest point of the other."""
    distances, _ = cKDTree(other.points_mm).query(surface.points_mm)
    return np.asarray(distances, dtype=np.float64)


def _percentile(distances_mm: Float64, areas_mm2: Float64, share: float) -> float:
    """The distance that `share` of the area does not exceed."""
    order = np.argsort(distances_mm)
    reached = np.cumsum(areas_mm2[order]) / areas_mm2.sum()
    # Rounding must not decide where exactly that share is reached.
    at = min(int(np.searchsorted(reached, share - 1e-9)), len(order) - 1)
    return float(distances_mm[order[at]])


def _match(segmentation: Segmentation, reference: Segmentation) -> LesionMatches:
    predicted, true = number_lesions(segmentation), number_lesions(reference)
    theirs = true.on_grid[predicted.box.slices]
    shared = (predicted.ids > 0) & (theirs > 0)
    return LesionMatches(
        reference_count=len(true.boxes),
        predicted_count=len(predicted.boxes),
        found_count=len(np.unique(theirs[shared])),
        true_count=len(np.unique(predicted.ids[shared])),
    )
