"""The section `follow_up` of a report, field by field as clients read it; docs/answers.md defines each number."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.followup.estimate import Change, Interval
from app.imaging.diameters import Point

State = Literal["unchanged", "grown", "shrunk", "merged", "split", "regrouped", "new", "gone", "not_covered"]
Trend = Literal["unchanged", "grown", "shrunk"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PriorReport(_Frozen):
    """The earlier scan, by its labels."""

    labels_sha256: str = Field(description="SHA-256 of its labels as they were taken in")
    report_sha256: str | None = Field(description="That of the report beside them; null if there was none")
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    lesion_count: int


class Obstacle(_Frozen):
    """Why two scans are not compared: a code for programs, a sentence for people."""

    code: Literal["prior_without_liver", "livers_do_not_fit"]
    detail: str


class RegistrationReport(_Frozen):
    """How well the prior's liver lies on the current one; lengths in mm."""

    dice_rigid: float = Field(description="Dice of the livers once one is only moved and turned")
    dice: float = Field(description="Dice of the livers after the elastic step")
    mean_surface_distance_mm: float = Field(description="From the current liver's surface to the prior's, afterwards")
    mean_elastic_mm: float = Field(description="How far the elastic step moves the liver's voxels, on average")
    tolerance_mm: float = Field(description="How far apart the centroids of lesions may lie that do not overlap")


class MeasuredLesion(_Frozen):
    """A lesion of one of the two scans, by its id there."""

    id: int
    volume_ml: float
    volume_interval_ml: Interval
    longest_axial_diameter_mm: float
    diameter_interval_mm: Interval
    touches_border: bool


class LesionChange(_Frozen):
    """A lesion then and now; several on a side if it merged or split."""

    prior: tuple[MeasuredLesion, ...]
    current: tuple[MeasuredLesion, ...]
    state: State
    trend: Trend | None = Field(description="Whether the volume changed by more than is uncertain; null if alone")
    matched_by: Literal["overlap", "distance"] | None = Field(description="distance: by nearness alone, less certain")
    distance_mm: float | None = Field(description="Between the centroids after registration")
    where_mm: Point = Field(description="RAS+ mm in the current scan; of what is gone, where it would lie")
    volume_ml: Change


class Target(_Frozen):
    """A lesion that the RECIST sum counts: prior ids, current ids, longest axial diameters."""

    prior_id: int
    current_ids: tuple[int, ...]
    prior_mm: float
    current_mm: float = Field(description="0 if gone; of parts their sum; 0 where it is counted with an earlier target")
    matched_by: Literal["overlap", "distance"] | None


class RecistSum(_Frozen):
    """Sum of the longest axial diameters of the target lesions: up to two, chosen on the prior scan."""

    targets: tuple[Target, ...]
    least_measurable_mm: float
    sum_mm: Change
    new_lesions: int = Field(description="Lesions that are new; RECIST does not add them")


class Totals(_Frozen):
    """Of the whole liver."""

    liver_ml: Change
    lesions_ml: Change
    burden: Change = Field(description="Share of the liver that is lesion, 0 to 1")


class FollowUp(_Frozen):
    """What changed since the prior scan; if `comparable` is false nothing is said but why not."""

    prior: PriorReport
    comparable: bool
    obstacle: Obstacle | None = None
    registration: RegistrationReport | None = None
    lesions: tuple[LesionChange, ...] = ()
    totals: Totals | None = None
    recist: RecistSum | None = Field(default=None, description="null if the prior has no lesion that is measurable")
