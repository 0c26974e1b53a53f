"""From the labels of two scans to what changed between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.followup.alignment import Alignment, sample
from app.followup.distance_map import REACH_MM, SPACING_MM, DistanceMap, distance_map
from app.followup.estimate import Change, Estimate, change, ratio, total
from app.followup.lesions import Date, Lesion, measured
from app.followup.matching import TOLERANCE_MM, Group, match
from app.followup.prior import Prior
from app.followup.recist import recist_sum
from app.followup.registration import Tell, register
from app.followup.result import (
    FollowUp,
    LesionChange,
    MeasuredLesion,
    Obstacle,
    PriorReport,
    RegistrationReport,
    State,
    Totals,
    Trend,
)
from app.imaging.lesions import number_lesions
from app.imaging.volume import Segmentation

#: Livers that fit worse than this once they are only moved and turned, or in the end, are not the same liver, or not
#: as it was. Between those of one patient and those of different ones that benchmarks/followup.py tries.
LEAST_RIGID_DICE = 0.85
LEAST_DICE = 0.94
_TRENDS: dict[int, Trend] = {-1: "shrunk", 0: "unchanged", 1: "grown"}


def follow_up(current: Segmentation, prior: Prior, tell: Tell) -> FollowUp:
    """Compare with a prior; the current scan has a liver. Raises what `tell` raises."""
    if prior.segmentation.box is None:
        detail = "The labels of the prior scan have no liver: nothing says where its lesions lay."
        obstacle = Obstacle(code="prior_without_liver", detail=detail)
        return FollowUp(prior=_described(prior), comparable=False, obstacle=obstacle)
    here, there = distance_map(current), distance_map(prior.segmentation)
    return compared(current, prior, here, there, register(here, there, tell))


def compared(
    current: Segmentation, prior: Prior, here: DistanceMap, there: DistanceMap, alignment: Alignment
) -> FollowUp:
    """What an alignment of the livers, here now and there then, comes to."""
    quality = _quality(here, there, alignment)
    obstacle = _obstacle(quality)
    if obstacle is not None:
        return FollowUp(prior=_described(prior), comparable=False, obstacle=obstacle, registration=quality)
    then, now = measured(prior.segmentation, prior.intervals_ml), measured(current)
    groups = match(then, now, alignment)
    return FollowUp(
        prior=_described(prior),
        comparable=True,
        registration=quality,
        lesions=tuple(_row(group, then, now, alignment) for group in groups),
        totals=_totals(then, now),
        recist=recist_sum(then, now, groups),
    )


def _described(prior: Prior) -> PriorReport:
    geometry = prior.segmentation.geometry
    return PriorReport(
        labels_sha256=prior.labels_sha256,
        report_sha256=prior.report_sha256,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.axis_codes,
        lesion_count=len(number_lesions(prior.segmentation).boxes),
    )


def _quality(here: DistanceMap, there: DistanceMap, alignment: Alignment) -> RegistrationReport:
    grid = here.geometry
    points = grid.to_mm(np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3))
    rigid = Alignment(alignment.rigid, np.zeros_like(alignment.elastic_mm), grid)
    signed = here.signed_mm.ravel()
    only_rigid, both = (
        sample(there.signed_mm, there.geometry, each.to_prior(points), beyond=REACH_MM) for each in (rigid, alignment)
    )
    moved = np.linalg.norm(alignment.elastic_mm.reshape(-1, 3)[signed < 0], axis=1)
    edge = np.abs(signed) <= SPACING_MM / 2
    return RegistrationReport(
        dice_rigid=_dice(signed < 0, only_rigid < 0),
        dice=_dice(signed < 0, both < 0),
        mean_surface_distance_mm=float(np.abs(both - signed)[edge].mean()),
        mean_elastic_mm=float(moved.mean()),
        tolerance_mm=TOLERANCE_MM,
    )


def _dice(one: np.ndarray[tuple[int], np.dtype[np.bool_]], other: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


def _obstacle(quality: RegistrationReport) -> Obstacle | None:
    if quality.dice_rigid >= LEAST_RIGID_DICE and quality.dice >= LEAST_DICE:
        return None
    detail = (
        f"The livers of the two scans do not fit: Dice {quality.dice_rigid:.2f} when one is moved and turned "
        f"({LEAST_RIGID_DICE} is needed), {quality.dice:.2f} when it is also bent ({LEAST_DICE}). It may be another "
        "patient, a liver after surgery, one that the scan cuts off, or a mask that is wrong."
    )
    return Obstacle(code="livers_do_not_fit", detail=detail)


def _row(group: Group, then: Date, now: Date, alignment: Alignment) -> LesionChange:
    before = [then.lesions[number - 1] for number in group.prior]
    after = [now.lesions[number - 1] for number in group.current]
    volume = change(total(each.volume_ml for each in before), total(each.volume_ml for each in after))
    trend = _TRENDS[volume.direction] if before and after else None
    where = _centroid(after) if after else alignment.to_current(_centroid(before)[None])[0]
    x, y, z = where.tolist()
    return LesionChange(
        prior=tuple(_measured(each) for each in before),
        current=tuple(_measured(each) for each in after),
        state=_state(group, trend),
        trend=trend,
        matched_by=group.by,
        distance_mm=group.distance_mm,
        where_mm=(x, y, z),
        volume_ml=volume,
    )


def _state(group: Group, trend: Trend | None) -> State:
    if not group.covered:
        return "not_covered"
    several = len(group.prior) > 1, len(group.current) > 1
    if any(several):
        return "regrouped" if all(several) else "merged" if several[0] else "split"
    if trend is not None:
        return trend
    return "gone" if group.prior else "new"


def _centroid(lesions: Sequence[Lesion]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    weights = np.array([lesion.volume_ml.value for lesion in lesions])
    return np.asarray(weights @ np.array([lesion.centroid_mm for lesion in lesions]) / weights.sum())


def _measured(lesion: Lesion) -> MeasuredLesion:
    volume, diameter = lesion.volume_ml, lesion.diameter_mm
    return MeasuredLesion(
        id=lesion.id,
        volume_ml=volume.value,
        volume_interval_ml=(volume.low, volume.high),
        longest_axial_diameter_mm=diameter.value,
        diameter_interval_mm=(diameter.low, diameter.high),
        touches_border=lesion.touches_border,
    )


def _totals(then: Date, now: Date) -> Totals:
    lesions_then, lesions_now = (total(each.volume_ml for each in date.lesions) for date in (then, now))

    def burden(lesions: Estimate, date: Date) -> Estimate:
        return ratio(lesions, date.liver_ml)

    changed: Change = change(burden(lesions_then, then), burden(lesions_now, now))
    return Totals(
        liver_ml=change(then.liver_ml, now.liver_ml),
        lesions_ml=change(lesions_then, lesions_now),
        burden=changed,
    )
