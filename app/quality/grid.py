"""Whether the grid of a scan is one that a liver fits into."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from app.imaging.volume import Geometry
from app.quality.findings import Finding, refusal, warning

FEWEST_SLICES = 5
#: Pixels along the edges of a slice, below which there is no picture.
FEWEST_PIXELS = 16
LEAST_COVERAGE_MM = 50.0
FIELD_OF_VIEW_MM = (150.0, 700.0)
#: Slices thicker than this many times the pixel size, that do not lie along the body axis, are coronal or sagittal.
ANISOTROPY = 1.5
MOST_TILT_DEGREES = 20.0


def body_axis(geometry: Geometry) -> int:
    """The grid axis that comes closest to the patient's long axis."""
    return next(axis for axis, code in enumerate(geometry.axis_codes) if code in "SI")


def check_grid(geometry: Geometry) -> Iterator[Finding]:
    """What the header alone tells."""
    yield from _coverage(geometry)
    yield from _direction(geometry)


def _coverage(geometry: Geometry) -> Iterator[Finding]:
    along = body_axis(geometry)
    extent_mm = [n * spacing for n, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True)]
    edges = [n for axis, n in enumerate(geometry.shape) if axis != along]
    if min(edges) < FEWEST_PIXELS:
        yield refusal("too_few_pixels", f"A slice has {edges[0]} x {edges[1]} pixels; that is no picture of a body.")
    if geometry.shape[along] < FEWEST_SLICES:
        yield warning("few_slices", f"The scan has {geometry.shape[along]} slices; a liver needs many more.")
    elif extent_mm[along] < LEAST_COVERAGE_MM:
        yield warning("little_coverage", f"The scan is {extent_mm[along]:.0f} mm long; a liver is about 150 mm.")
    across = [extent for axis, extent in enumerate(extent_mm) if axis != along]
    if min(across) < FIELD_OF_VIEW_MM[0] or max(across) > FIELD_OF_VIEW_MM[1]:
        yield warning("field_of_view", f"A slice is {across[0]:.0f} x {across[1]:.0f} mm, unlike a trunk.")


def _direction(geometry: Geometry) -> Iterator[Finding]:
    along = body_axis(geometry)
    edges = sorted(geometry.spacing_mm)
    if edges[2] > ANISOTROPY * edges[1] and geometry.spacing_mm[along] != edges[2]:
        yield warning("not_axial", "The slices are coronal or sagittal; the networks were trained on axial ones.")
    cosine = abs(geometry.affine[2, along]) / geometry.spacing_mm[along]
    tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
    if tilt > MOST_TILT_DEGREES:
        yield warning("oblique", f"The slices are tilted by {tilt:.0f} degrees against the axial plane.")
