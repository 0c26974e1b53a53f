"""What a run measures and says: the report, field by field as clients read it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, computed_field

from app.agreement import Agreement
from app.followup.result import FollowUp
from app.imaging.diameters import Chord, Point, axial_diameters
from app.imaging.grey_values import grey_values, mean_hu
from app.imaging.lesions import Ids, number_lesions
from app.imaging.likelihood import likelihood
from app.imaging.region import Box
from app.imaging.surfaces import Capsule, area_mm2, corners_mm, direction_weights, sphericity
from app.imaging.volume import Geometry, Segmentation, Volume
from app.quality import Quality

Task = Literal["liver", "lesion", "crf"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ScanReport(_Frozen):
    """The scan that was measured."""

    sha256: str = Field(description="SHA-256 of the file as it was sent")
    shape: tuple[int, int, int] = Field(description="Voxels along the three axes of the file")
    spacing_mm: tuple[float, float, float] = Field(description="Distance between voxels along these axes, mm")
    orientation: str = Field(description="Where these axes point to, such as LPS", examples=["LPS"])


class ModelReport(_Frozen):
    """A network that took part."""

    name: str
    version: str
    sha256: str = Field(description="SHA-256 of the network's file")


class LiverReport(_Frozen):
    """The organ with its lesions."""

    volume_ml: float = Field(ge=0, description="Volume of liver and lesions together, ml")
    mean_hu: float | None = Field(description="Mean over the same voxels, HU; null without a liver")
    touches_border: bool = Field(description="Whether it reaches the edge of the scan, so that part may be missing")


class LesionReport(_Frozen):
    """One lesion; docs/answers.md defines each number. Ends and centroid are RAS+ mm: right, anterior, superior.

    What is null was not measured, or not when an older version wrote the report.
    """

    id: int = Field(ge=1, description="Its value in lesions.nii.gz; 1 is the largest")
    volume_ml: float = Field(gt=0)
    volume_interval_ml: tuple[float, float] | None = Field(
        default=None, description="Its volume at a higher and at a lower threshold; no confidence interval"
    )
    mean_probability: float | None = Field(
        default=None, ge=0, le=1, description="Mean of the network's probability over its voxels; not calibrated"
    )
    longest_axial_diameter_mm: float = Field(ge=0, description="Longest chord in any one axial slice")
    perpendicular_diameter_mm: float = Field(ge=0, description="Longest chord across it in the same slice")
    axial_slice: int | None = Field(
        default=None, ge=0, description="Number of that slice, from 0, along the file's axis from foot to head or back"
    )
    longest_ends_mm: Chord | None = Field(default=None, description="Where the longest chord begins and ends")
    perpendicular_ends_mm: Chord | None = Field(default=None, description="Where the chord across it does")
    centroid_mm: Point
    sphericity: float | None = Field(default=None, ge=0, le=1, description="1 for a ball")
    capsule_distance_mm: float | None = Field(
        default=None, ge=0, description="Shortest way from its surface to the liver's; null if the scan shows none"
    )
    mean_hu: float
    sd_hu: float | None = Field(default=None, ge=0)
    p5_hu: float | None = None
    median_hu: float | None = None
    p95_hu: float | None = None
    touches_border: bool = Field(description="Whether it reaches the edge of the scan")


class Timings(_Frozen):
    """Seconds spent in each stage."""

    read: float = 0.0
    liver: float = 0.0
    lesion: float = 0.0
    crf: float = 0.0
    measure: float = 0.0
    write: float = 0.0
    total: float = 0.0


class Report(_Frozen):
    """Everything a run found out. Lesion count, volume and burden follow from the lesions."""

    scan: ScanReport
    models: dict[Task, ModelReport]
    liver: LiverReport
    lesions: tuple[LesionReport, ...]
    lesions_split: bool = Field(default=False, description="Whether lesions that touch were split at narrow necks")
    agreement: Agreement | None = Field(default=None, description="Only if a reference was sent")
    follow_up: FollowUp | None = Field(default=None, description="Only if a prior was sent")
    quality: Quality
    timings_s: Timings

    @computed_field  # type: ignore[prop-decorator]  # mypy does not know decorated properties
    @property
    def lesion_count(self) -> int:
        """How many lesions there are."""
        return len(self.lesions)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def lesion_volume_ml(self) -> float:
        """Volume of all lesions together, ml."""
        return sum(lesion.volume_ml for lesion in self.lesions)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def lesion_burden(self) -> float:
        """Share of the liver that is lesion, 0 to 1; 0 without a liver."""
        return self.lesion_volume_ml / self.liver.volume_ml if self.liver.volume_ml else 0.0


class Measurements(NamedTuple):
    """What `measure` found: the liver, and its lesions from the largest to the smallest."""

    liver: LiverReport
    lesions: tuple[LesionReport, ...]


def measure(segmentation: Segmentation, volume: Volume) -> Measurements:
    """Measure the liver and each lesion. Raises ValueError if the two do not lie on the same grid.

    A volume is the number of voxels times the volume of one. All numbers are the same however the array is stored.
    """
    if segmentation.geometry != volume.geometry:
        raise ValueError("segmentation and volume must lie on the same grid")
    count = len(number_lesions(segmentation).boxes)
    ruler = _LesionRuler(segmentation, volume) if count else None
    lesions = tuple(ruler.measured(number) for number in range(1, count + 1)) if ruler else ()
    return Measurements(_liver(segmentation, volume), lesions)


def lesion_instances(segmentation: Segmentation) -> Ids:
    """The lesions' ids as in the report: uint16 (I, J, K), 0 outside lesions."""
    return number_lesions(segmentation).on_grid


def _liver(segmentation: Segmentation, volume: Volume) -> LiverReport:
    geometry, box = segmentation.geometry, segmentation.box
    if box is None:
        return LiverReport(volume_ml=0.0, mean_hu=None, touches_border=False)
    inside = segmentation.labels[box.slices] > 0
    return LiverReport(
        volume_ml=int(np.count_nonzero(inside)) * geometry.voxel_volume_ml,
        mean_hu=mean_hu(volume, box, inside),
        touches_border=_touches_border(box, geometry),
    )


class _LesionRuler:
    """Measures the lesions of one segmentation, with what all of them share made once."""

    def __init__(self, segmentation: Segmentation, volume: Volume) -> None:
        self._volume, self._geometry = volume, volume.geometry
        self._numbered = number_lesions(segmentation)
        self._likelihood = likelihood(self._numbered, segmentation)
        self._capsule = Capsule(segmentation)
        self._weights = direction_weights(volume.geometry)

    def measured(self, number: int) -> LesionReport:
        """The row of lesion `number`."""
        box, mask = self._numbered.boxes[number - 1], self._numbered.mask(number)
        x, y, z = self._geometry.to_mm(self._numbered.centroids_ijk[number - 1]).tolist()
        diameters = axial_diameters(mask, self._geometry, box.start)
        around = (box.start[0] - 1, box.start[1] - 1, box.start[2] - 1)
        return LesionReport(
            id=number,
            volume_ml=int(self._numbered.voxel_counts[number - 1]) * self._geometry.voxel_volume_ml,
            longest_axial_diameter_mm=diameters.longest_mm,
            perpendicular_diameter_mm=diameters.perpendicular_mm,
            axial_slice=diameters.slice,
            longest_ends_mm=diameters.longest_ends_mm,
            perpendicular_ends_mm=diameters.perpendicular_ends_mm,
            centroid_mm=(x, y, z),
            sphericity=sphericity(mask, self._geometry, area_mm2(mask, self._geometry, self._weights)),
            capsule_distance_mm=self._capsule.distance_mm(corners_mm(np.pad(mask, 1), self._geometry, around)),
            touches_border=_touches_border(box, self._geometry),
            **grey_values(self._volume, box, mask)._asdict(),
            **self._certainty(number),
        )

    def _certainty(self, number: int) -> dict[str, Any]:
        found, voxel_ml = self._likelihood, self._geometry.voxel_volume_ml
        if found is None:
            return {}
        low, high = (float(counts[number - 1]) * voxel_ml for counts in (found.low_counts, found.high_counts))
        return {"mean_probability": float(found.mean_probability[number - 1]), "volume_interval_ml": (low, high)}


def _touches_border(box: Box, geometry: Geometry) -> bool:
    ends = zip(box.start, box.stop, geometry.shape, strict=True)
    return any(first == 0 or end == size for first, end, size in ends)
