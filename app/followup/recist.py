"""The RECIST sum: longest axial diameters of up to two target lesions, the same ones on both dates.

Eisenhauer et al., New response evaluation criteria in solid tumours: revised RECIST guideline (version 1.1), 2009:
a lesion can be measured from 10 mm on, in slices thicker than 5 mm from twice their thickness on; at most two targets
in an organ, the largest; of a target that split the parts are added up, of targets that merged the whole counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.followup.estimate import NOTHING, Estimate, change, total
from app.followup.lesions import Date, Lesion
from app.followup.matching import Group
from app.followup.result import RecistSum, Target

MOST_TARGETS = 2
LEAST_MM = 10.0
#: Slices thicker than this need larger lesions.
THICK_SLICE_MM = 5.0


@dataclass(frozen=True)
class _Followed:
    target: Target
    prior_mm: Estimate
    current_mm: Estimate


def recist_sum(prior: Date, current: Date, groups: Sequence[Group]) -> RecistSum | None:
    """The sum of the targets then and now; None if there is none, or one that the current scan does not reach."""
    least = LEAST_MM if prior.slice_mm <= THICK_SLICE_MM else 2 * prior.slice_mm
    whole = [lesion for lesion in prior.lesions if lesion.diameter_mm.value >= least and not lesion.touches_border]
    targets = sorted(whole, key=lambda lesion: (-lesion.diameter_mm.value, lesion.id))[:MOST_TARGETS]
    group_of = {number: group for group in groups for number in group.prior}
    if not targets or any(not group_of[target.id].covered for target in targets):
        return None
    counted: set[int] = set()
    followed = []
    for target in targets:
        followed.append(_follow(target, group_of[target.id], current, counted))
        counted |= set(group_of[target.id].current)
    return RecistSum(
        targets=tuple(each.target for each in followed),
        least_measurable_mm=least,
        sum_mm=change(total(each.prior_mm for each in followed), total(each.current_mm for each in followed)),
        new_lesions=sum(1 for group in groups if not group.prior and group.covered),
    )


def _follow(target: Lesion, group: Group, current: Date, counted: set[int]) -> _Followed:
    parts = [current.lesions[number - 1].diameter_mm for number in group.current if number not in counted]
    now = total(parts) if parts else NOTHING
    if group.by == "distance":
        # Near is not the same: if it is another lesion, then the target is gone.
        now = Estimate(now.value, 0.0, now.high)
    described = Target(
        prior_id=target.id,
        current_ids=group.current,
        prior_mm=target.diameter_mm.value,
        current_mm=now.value,
        matched_by=group.by,
    )
    return _Followed(described, target.diameter_mm, now)
