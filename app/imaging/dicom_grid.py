"""From slices in any order to one grid, by stated rules (docs/pacs.md): every doubt is an error with a code.

Only positions and directions in the patient count; names, instance numbers and slice locations are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.errors import InputError, InvalidGeometry
from app.imaging.dicom_header import text
from app.imaging.dicom_slices import Slice
from app.imaging.header import require_extent, require_voxel_size
from app.imaging.volume import Float64, Geometry

#: How far a slice may lie from where an even grid has it: positions are often rounded to a tenth of a millimetre.
EVEN_MM = 0.1
#: Slices closer than this lie at the same place.
SAME_PLACE_MM = 0.01
#: Directions that differ by less are the same, rounded differently (about 0.1 degrees).
SAME_DIRECTION = 2e-3
SAME_SPACING = 1e-3
#: A gap is "n slices missing" if it is a whole multiple of the others but for this part of one.
_WHOLE = 0.1
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of k, one a place. `doubles`: (k, slice) of those at a place that was taken already."""

    slices: tuple[Slice, ...]
    doubles: tuple[tuple[int, Slice], ...]
    geometry: Geometry


def stacked(slices: Sequence[Slice]) -> Stack:
    """Sort slices by their place along the normal of the first, and check that they make a grid.

    i runs along a row, j down a column, k along the normal. Raises InvalidGeometry.
    """
    _require_alike(slices)
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda each: (float(normal @ each.position_mm), each.instance.sop_instance_uid))
    kept, doubles = _without_doubles(ordered, normal)
    if len(kept) < 2:
        raise InvalidGeometry("The series has one slice; a volume needs at least two.", code="too_few_slices")
    positions = np.array([each.position_mm for each in kept])
    step = (positions[-1] - positions[0]) / (len(kept) - 1)
    _require_even(positions, normal)
    _require_straight(positions, step, normal)
    return Stack(tuple(kept), tuple(doubles), _geometry(kept, step))


def _require_alike(slices: Sequence[Slice]) -> None:
    """All slices must have the same directions, pixel spacing, size and frame of reference."""
    first = slices[0]
    for each in slices:
        if np.abs(each.directions - first.directions).max() > SAME_DIRECTION:
            raise _mixed("mixed_orientations", "Its slices point into different directions")
        if np.abs(each.spacing_mm / first.spacing_mm - 1).max() > SAME_SPACING:
            raise _mixed("mixed_spacing", "Its slices have pixels of different size")
        if (each.rows, each.columns) != (first.rows, first.columns):
            raise _mixed("mixed_sizes", "Its slices have different numbers of rows or columns")
    if len({text(each.instance.header, "FrameOfReferenceUID") for each in slices}) > 1:
        raise _mixed("mixed_frames_of_reference", "Its slices were not taken in one position of the patient")


def _mixed(code: str, sentence: str) -> InputError:
    return InvalidGeometry(f"{sentence}: the series holds more than one scan. Send them one by one.", code=code)


def _without_doubles(ordered: Sequence[Slice], normal: Float64) -> tuple[list[Slice], list[tuple[int, Slice]]]:
    kept: list[Slice] = []
    doubles: list[tuple[int, Slice]] = []
    for each in ordered:
        if kept and normal @ (each.position_mm - kept[-1].position_mm) < SAME_PLACE_MM:
            if np.linalg.norm(each.position_mm - kept[-1].position_mm) > EVEN_MM:
                raise _shifted()
            doubles.append((len(kept) - 1, each))
        else:
            kept.append(each)
    return kept, doubles


def _require_even(positions: Float64, normal: Float64) -> None:
    """(n, 3) positions in mm must be evenly spaced along the normal."""
    places = positions @ normal
    even = np.linspace(places[0], places[-1], len(places))
    if np.abs(places - even).max() <= EVEN_MM:
        return
    gaps = np.diff(places)
    usual = float(gaps.min())
    steps = gaps / usual
    whole = np.rint(steps)
    if np.abs(steps - whole).max() <= _WHOLE and whole.min() >= 1:
        missing = int(whole.sum()) - len(gaps)
        raise InvalidGeometry(
            f"{missing} slices of {usual:.3g} mm seem to be missing between the first and the last, in "
            f"{int((whole > 1).sum())} places. Send the whole series.",
            code="missing_slices",
        )
    raise InvalidGeometry(
        f"The slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart; at most {EVEN_MM} mm off an even grid is read. "
        "Send a series with even slices.",
        code="uneven_gaps",
    )


def _require_straight(positions: Float64, step: Float64, normal: Float64) -> None:
    """The slices must lie on one line, and that line must be perpendicular to them."""
    line = positions[0] + np.arange(len(positions))[:, None] * step
    off_line = positions - line
    if np.linalg.norm(off_line - np.outer(off_line @ normal, normal), axis=1).max() > EVEN_MM:
        raise _shifted()
    sideways = np.linalg.norm(step - (step @ normal) * normal) * (len(positions) - 1)
    cosine = float(step @ normal / np.linalg.norm(step))
    if sideways > EVEN_MM and cosine < np.cos(SAME_DIRECTION):
        tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
        raise InvalidGeometry(
            f"The slices are tilted by {tilt:.1f} degrees against the direction in which they are stacked (gantry "
            "tilt). Resample the scan to a straight grid first, for example with dcm2niix.",
            code="sheared_grid",
        )


def _shifted() -> InputError:
    return InvalidGeometry("The slices are shifted sideways against each other.", code="shifted_slices")


def _geometry(slices: Sequence[Slice], step: Float64) -> Geometry:
    """The grid in RAS+ mm of slices that were found to make one."""
    first = slices[0]
    # The step is taken along the normal: what it deviates by is rounding, for more would have been refused.
    along = first.normal * float(step @ first.normal)
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ np.column_stack([*(first.directions * first.spacing_mm[:, None]), along])
    affine[:3, 3] = _LPS_TO_RAS @ first.position_mm
    geometry = Geometry((first.columns, first.rows, len(slices)), affine)
    require_voxel_size(geometry)
    require_extent(geometry)
    return geometry
