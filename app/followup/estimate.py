"""A number with the interval it may lie in, and how the intervals of two dates go on into the change between them.

Within one scan intervals are added up: whatever moved one edge (threshold, blur) moved all. Between two scans their
halves are taken as independent, and added as squares.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import hypot
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Interval = tuple[float, float]


class Estimate(NamedTuple):
    """low <= value <= high."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """In another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


NOTHING = Estimate(0.0, 0.0, 0.0)


class Change(BaseModel):
    """A number then and now. Percent are of the prior value, null if that is 0."""

    model_config = ConfigDict(frozen=True)

    prior: float
    prior_interval: Interval
    current: float
    current_interval: Interval
    change: float = Field(description="current less prior")
    change_interval: Interval
    change_percent: float | None
    change_percent_interval: Interval | None

    @property
    def direction(self) -> int:
        """1 if it grew, -1 if it shrank by more than the uncertainty, else 0."""
        low, high = self.change_interval
        return int(low > 0) - int(high < 0)


def total(parts: Iterable[Estimate]) -> Estimate:
    """The sum within one scan."""
    return Estimate(*(sum(column) for column in zip(NOTHING, *parts, strict=True)))


def ratio(part: Estimate, whole: Estimate) -> Estimate:
    """part / whole within one scan, at its least and at its most; 0 of nothing."""
    if not whole.low:
        return NOTHING
    return Estimate(part.value / whole.value, part.low / whole.high, part.high / whole.low)


def change(prior: Estimate, current: Estimate) -> Change:
    """What changed between two scans."""
    difference = current.value - prior.value
    below = hypot(current.value - current.low, prior.high - prior.value)
    above = hypot(current.high - current.value, prior.value - prior.low)
    percent = percent_interval = None
    if prior.value:
        percent = 100 * difference / prior.value
        share = current.value / prior.value
        less = hypot(current.value - current.low, share * (prior.high - prior.value)) / prior.value
        more = hypot(current.high - current.value, share * (prior.value - prior.low)) / prior.value
        percent_interval = (percent - 100 * less, percent + 100 * more)
    return Change(
        prior=prior.value,
        prior_interval=(prior.low, prior.high),
        current=current.value,
        current_interval=(current.low, current.high),
        change=difference,
        change_interval=(difference - below, difference + above),
        change_percent=percent,
        change_percent_interval=percent_interval,
    )
