"""Which lesions of a segmentation are those of the reference: lesion by lesion, by size, under two rules.

Two rules, for they answer two questions, and give very different figures for the same masks:

any overlap   "Was it seen?" Two lesions match if they share a voxel. One may match several.
IoU > 0.5     "Was it drawn?" Two lesions match if what they share is more than half of what they cover together. By
              arithmetic no lesion has two such partners. This is the rule of panoptic quality, and LiTS' threshold; but
              LiTS first merges lesions that one lesion of the other side joins, and nothing is merged here.

Recall is about the lesions of the reference, precision about the predicted ones; a size class has the recall of the
reference's lesions of that size and the precision of the predicted ones of that size. Size is the longest axial
diameter.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, computed_field

from app.imaging.diameters import Point, axial_diameters
from app.imaging.lesions import NumberedLesions, number_lesions
from app.imaging.volume import Float64, Geometry, Segmentation

SizeClass = Literal["under_10_mm", "10_to_20_mm", "from_20_mm"]
#: From which longest axial diameter on a lesion is in the next class. RECIST 1.1 measures lesions from 10 mm on.
SIZE_CLASSES: tuple[SizeClass, ...] = ("under_10_mm", "10_to_20_mm", "from_20_mm")
SIZE_LIMITS_MM = (10.0, 20.0)
#: What a match must exceed under the second rule.
LEAST_IOU = 0.5

ANY_OVERLAP = "any overlap: two lesions match if they share a voxel; one may match several"
IOU_ABOVE_HALF = "IoU > 0.5: two lesions match if they share more than half of what they cover together"

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class LesionMatches(BaseModel):
    """Lesion by lesion. found_count: lesions of the reference that a predicted one matches. true_count: predicted
    lesions that one of the reference matches.
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


class MatchesByRule(LesionMatches):
    """All lesions under one rule, and those of each size. What an older version wrote was by any overlap."""

    rule: str = ANY_OVERLAP
    by_size: dict[SizeClass, LesionMatches] = Field(default_factory=dict)


class DrawnLesions(MatchesByRule):
    """Under the rule of panoptic quality: `mean_iou` of what matches, and how that and F1 go together."""

    mean_iou: float | None = Field(description="Mean IoU of the pairs that match, segmentation quality; null if none")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def panoptic_quality(self) -> float | None:
        """F1 times mean IoU; 0 if nothing matches, null if there is nothing to match."""
        return None if self.f1 is None else self.f1 * (self.mean_iou or 0.0)


class ReferenceLesion(BaseModel):
    """One lesion of the reference, and the predicted one that shares most voxels with it, if any does."""

    model_config = ConfigDict(frozen=True)

    id: int = Field(ge=1, description="Numbered as the report's lesions are, from the largest")
    volume_ml: float
    longest_axial_diameter_mm: float
    size_class: SizeClass
    centroid_mm: Point
    predicted_id: int | None = Field(description="Its partner's id in the report; null if it was missed")
    iou: float = Field(ge=0, le=1, description="With its partner; 0 if it was missed")
    volume_error_ml: float | None = Field(description="Partner's volume less its own; null if it was missed")
    longest_diameter_error_mm: float | None = Field(description="Partner's longest axial diameter less its own")


class Matched(BaseModel):
    """Lesions against lesions."""

    model_config = ConfigDict(frozen=True)

    by_lesion: MatchesByRule
    by_lesion_iou: DrawnLesions | None = None
    reference_lesions: tuple[ReferenceLesion, ...] = ()
    false_lesions: tuple[int, ...] = Field(default=(), description="Ids of predicted lesions that lie on none")


def match_lesions(segmentation: Segmentation, reference: Segmentation) -> Matched:
    """Match the lesions of a segmentation with those of a reference on the same grid."""
    overlap = _Overlap(segmentation, reference)
    above = overlap.iou > LEAST_IOU
    drawn = _counted(overlap, above)
    return Matched(
        by_lesion=MatchesByRule(rule=ANY_OVERLAP, **_counted(overlap, overlap.shared > 0)),
        by_lesion_iou=DrawnLesions(
            rule=IOU_ABOVE_HALF, mean_iou=float(overlap.iou[above].mean()) if above.any() else None, **drawn
        ),
        reference_lesions=tuple(_reference_lesion(overlap, n) for n in range(len(overlap.true.boxes))),
        false_lesions=tuple(int(n) + 1 for n in np.flatnonzero(~overlap.shared.any(axis=1))),
    )


class _Overlap:
    """Predicted lesions p and true ones t. shared, iou: (p, t). diameters in mm and size classes: (p,), (t,)."""

    def __init__(self, segmentation: Segmentation, reference: Segmentation) -> None:
        self.geometry = reference.geometry
        self.predicted, self.true = number_lesions(segmentation), number_lesions(reference)
        self.shared = self._shared()
        sizes, true_sizes = self.predicted.voxel_counts, self.true.voxel_counts
        self.iou = self.shared / (sizes[:, None] + true_sizes[None, :] - self.shared)
        self.diameters_mm, self.true_diameters_mm = (
            _diameters_mm(numbered, self.geometry) for numbered in (self.predicted, self.true)
        )
        self.classes, self.true_classes = (
            np.digitize(each, SIZE_LIMITS_MM) for each in (self.diameters_mm, self.true_diameters_mm)
        )

    def _shared(self) -> Counts:
        predicted, true = self.predicted, self.true
        theirs = true.on_grid[predicted.box.slices]
        both = (predicted.ids > 0) & (theirs > 0)
        shape = len(predicted.boxes), len(true.boxes)
        pairs = (predicted.ids[both].astype(np.int64) - 1) * shape[1] + theirs[both] - 1
        return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def _diameters_mm(numbered: NumberedLesions, geometry: Geometry) -> Float64:
    masks = (numbered.mask(number) for number in range(1, len(numbered.boxes) + 1))
    return np.array([axial_diameters(mask, geometry).longest_mm for mask in masks])


def _counted(overlap: _Overlap, matches: Flags) -> dict[str, Any]:
    """The counts under a rule: whether predicted lesion p and true lesion t match (p, t)."""
    found: Flags = np.asarray(matches.any(axis=0))
    true: Flags = np.asarray(matches.any(axis=1))
    everything = _counts(found, true)
    by_size = {
        name: LesionMatches(**_counts(found[overlap.true_classes == n], true[overlap.classes == n]))
        for n, name in enumerate(SIZE_CLASSES)
    }
    return {**everything, "by_size": by_size}


def _counts(found: Flags, true: Flags) -> dict[str, int]:
    return {
        "reference_count": len(found),
        "predicted_count": len(true),
        "found_count": int(found.sum()),
        "true_count": int(true.sum()),
    }


def _reference_lesion(overlap: _Overlap, t: int) -> ReferenceLesion:
    geometry, numbered = overlap.geometry, overlap.true
    x, y, z = geometry.to_mm(numbered.centroids_ijk[t]).tolist()
    shared = overlap.shared[:, t]
    # Of several that share as much, the first is the largest.
    partner = int(shared.argmax()) if shared.any() else None
    size = int(numbered.voxel_counts[t])
    volume_error = length_error = None
    if partner is not None:
        volume_error = (int(overlap.predicted.voxel_counts[partner]) - size) * geometry.voxel_volume_ml
        length_error = float(overlap.diameters_mm[partner] - overlap.true_diameters_mm[t])
    return ReferenceLesion(
        id=t + 1,
        volume_ml=size * geometry.voxel_volume_ml,
        longest_axial_diameter_mm=float(overlap.true_diameters_mm[t]),
        size_class=SIZE_CLASSES[overlap.true_classes[t]],
        centroid_mm=(x, y, z),
        predicted_id=None if partner is None else partner + 1,
        iou=0.0 if partner is None else float(overlap.iou[partner, t]),
        volume_error_ml=volume_error,
        longest_diameter_error_mm=length_error,
    )
