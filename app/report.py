"""What a run measures and says: the report, field by field as clients read it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, computed_field

from app.agreement import Agreement
from app.imaging.diameters import axial_diameters
from app.imaging.lesions import NumberedLesions, number_lesions
from app.imaging.region import Box, bounding_box
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
    """One lesion: a 26-connected component of the lesion mask."""

    id: int = Field(ge=1, description="Its value in lesions.nii.gz; 1 is the largest")
    volume_ml: float = Field(gt=0)
    longest_axial_diameter_mm: float = Field(ge=0, description="Longest chord in any one axial slice")
    perpendicular_diameter_mm: float = Field(ge=0, description="Longest chord across it in the same slice")
    centroid_mm: tuple[float, float, float] = Field(description="RAS+ millimetres: right, anterior, superior")
    mean_hu: float
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
    agreement: Agreement | None = Field(default=None, description="Only if a reference was sent")
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
    numbered = number_lesions(segmentation)
    lesions = tuple(_lesion(number, numbered, volume) for number in range(1, len(numbered.boxes) + 1))
    return Measurements(_liver(segmentation, volume), lesions)


def lesion_instances(segmentation: Segmentation) -> npt.NDArray[np.uint16]:
    """The lesions' ids as in the report: uint16 (I, J, K), 0 outside lesions."""
    return number_lesions(segmentation).on_grid


def _liver(segmentation: Segmentation, volume: Volume) -> LiverReport:
    geometry, mask = segmentation.geometry, segmentation.liver
    if not mask.any():
        return LiverReport(volume_ml=0.0, mean_hu=None, touches_border=False)
    box = bounding_box(mask, geometry.spacing_mm, 0.0)
    inside = mask[box.slices]
    count = int(np.count_nonzero(inside))
    return LiverReport(
        volume_ml=count * geometry.voxel_volume_ml,
        mean_hu=_mean_hu(volume, box, inside, count),
        touches_border=_touches_border(box, geometry),
    )


def _lesion(number: int, numbered: NumberedLesions, volume: Volume) -> LesionReport:
    geometry, box, mask = volume.geometry, numbered.boxes[number - 1], numbered.mask(number)
    count = int(numbered.voxel_counts[number - 1])
    diameters = axial_diameters(mask, geometry)
    x, y, z = (float(mm) for mm in geometry.to_mm(numbered.centroids_ijk[number - 1]))
    return LesionReport(
        id=number,
        volume_ml=count * geometry.voxel_volume_ml,
        longest_axial_diameter_mm=diameters.longest_mm,
        perpendicular_diameter_mm=diameters.perpendicular_mm,
        centroid_mm=(x, y, z),
        mean_hu=_mean_hu(volume, box, mask, count),
        touches_border=_touches_border(box, geometry),
    )


def _mean_hu(volume: Volume, box: Box, inside: npt.NDArray[np.bool_], count: int) -> float:
    # A sum of integers is exact: the order of the voxels cannot change it.
    return int(np.sum(volume.voxels[box.slices], where=inside, dtype=np.int64)) / count


def _touches_border(box: Box, geometry: Geometry) -> bool:
    ends = zip(box.start, box.stop, geometry.shape, strict=True)
    return any(first == 0 or end == size for first, end, size in ends)
