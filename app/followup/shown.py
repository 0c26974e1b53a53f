"""What changed, for people: rows of words for a page, a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from app.followup.estimate import Change
from app.followup.result import FollowUp, LesionChange, MeasuredLesion

HEAD = ("State", "then", "now", "ml then", "ml now", "change ml", "mm then", "mm now", "R, A, S mm")
_COLUMNS = (
    *("state", "trend", "prior_ids", "current_ids", "matched_by", "distance_mm", "right_mm", "anterior_mm"),
    "superior_mm",
    *(f"{date}_{name}" for date in ("prior", "current") for name in ("volume_ml", "low_ml", "high_ml")),
    *("change_ml", "change_low_ml", "change_high_ml", "change_percent", "change_low_percent", "change_high_percent"),
    *("prior_diameters_mm", "current_diameters_mm"),
)


def follow_up_csv(found: FollowUp) -> str:
    """A row per lesion; of several on one side, ids and diameters stand in one cell with spaces between."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    writer.writerows(tuple(_cells(row)) for row in found.lesions)
    return out.getvalue()


def _cells(row: LesionChange) -> Iterator[object]:
    volume = row.volume_ml
    yield from (row.state, row.trend, _ids(row.prior), _ids(row.current), row.matched_by, row.distance_mm)
    yield from row.where_mm
    yield from (volume.prior, *volume.prior_interval, volume.current, *volume.current_interval)
    yield from (volume.change, *volume.change_interval)
    yield from (volume.change_percent, *(volume.change_percent_interval or (None, None)))
    yield from (_diameters(row.prior), _diameters(row.current))


def rows(found: FollowUp) -> Iterator[tuple[str, ...]]:
    """The lesions under `HEAD`."""
    for row in found.lesions:
        volume = row.volume_ml
        yield (
            words(row),
            _ids(row.prior) or "–",
            _ids(row.current) or "–",
            f"{volume.prior:.2f}" if row.prior else "–",
            f"{volume.current:.2f}" if row.current else "–",
            signed(volume, 2),
            _diameters(row.prior, 1) or "–",
            _diameters(row.current, 1) or "–",
            ", ".join(f"{x:.0f}" for x in row.where_mm),
        )


def words(row: LesionChange) -> str:
    """A state as people say it; `?` where only nearness says that it is the same lesion."""
    said = {"not_covered": "outside the other scan"}.get(row.state, row.state)
    if row.state in ("merged", "split", "regrouped") and row.trend:
        said = f"{said}, {row.trend}"
    return f"{said}?" if row.matched_by == "distance" else said


def lines(found: FollowUp) -> Iterator[str]:
    """The sums, one sentence each; or why there are none."""
    if found.obstacle is not None:
        yield f"Cannot be compared ({found.obstacle.code}). {found.obstacle.detail}"
    if found.totals is not None:
        totals = found.totals
        yield f"All lesions: {_then_now(totals.lesions_ml, 'ml', 2)}."
        burden = totals.burden
        share = burden.model_copy(
            update={
                "prior": 100 * burden.prior,
                "current": 100 * burden.current,
                "change": 100 * burden.change,
                "change_interval": (100 * burden.change_interval[0], 100 * burden.change_interval[1]),
            }
        )
        yield f"Burden: {_then_now(share, '%', 2)}. Liver: {_then_now(totals.liver_ml, 'ml', 0)}."
    if found.recist is not None:
        count = len(found.recist.targets)
        yield (
            f"Sum of longest axial diameters of {count} target lesion{'s' if count > 1 else ''} (RECIST 1.1): "
            f"{_then_now(found.recist.sum_mm, 'mm', 1)}{_percent(found.recist.sum_mm)}; new lesions: "
            f"{found.recist.new_lesions}."
        )
    elif found.comparable:
        yield "No RECIST sum: no lesion of the prior scan can be a target, or one lies outside this scan."
    if found.registration is not None:
        fit = found.registration
        yield (
            f"Livers after registration: Dice {fit.dice:.3f}, surfaces {fit.mean_surface_distance_mm:.1f} mm apart on "
            "average. Intervals come from the network's probabilities and the voxels of both scans."
        )


def signed(found: Change, digits: int) -> str:
    """The change with its interval."""
    low, high = found.change_interval
    return f"{found.change:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def _then_now(found: Change, unit: str, digits: int) -> str:
    return f"{found.prior:.{digits}f} → {found.current:.{digits}f} {unit}, {signed(found, digits)}"


def _percent(found: Change) -> str:
    if found.change_percent is None or found.change_percent_interval is None:
        return ""
    low, high = found.change_percent_interval
    return f", {found.change_percent:+.0f} % ({low:+.0f} to {high:+.0f})"


def _ids(lesions: Iterable[MeasuredLesion]) -> str:
    return " ".join(str(each.id) for each in lesions)


def _diameters(lesions: Iterable[MeasuredLesion], digits: int | None = None) -> str:
    lengths = (each.longest_axial_diameter_mm for each in lesions)
    return " ".join(str(mm) if digits is None else f"{mm:.{digits}f}" for mm in lengths)
