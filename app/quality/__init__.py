"""Says whether a scan is an abdominal CT in Hounsfield units, and whether the answer is one a liver can give.

findings.py    Finding, Quality, the verdict, and every code with what to mend
grid.py        what the header tells: slices, field of view, direction
hounsfield.py  what is no CT; where air and fat lie; noise
anatomy.py     whether the patient lies on the grid as the header says
stack.py       blank, repeated, missing, shuffled slices
answer.py      the mask: amount, HU, side, shape, what cuts it off; phase.py guesses the contrast phase

Before segmentation, `check_scan` refuses what is certainly not a CT in Hounsfield units: no network should be asked
about an MR. All else is a warning, for the mask may be right and the patient unusual. Nothing here changes a mask.
`benchmarks/verdict.py` tries it on a corpus of faults and of good scans (docs/answers.md).
"""

from __future__ import annotations

from app.imaging.volume import Geometry, Volume
from app.quality.anatomy import check_anatomy
from app.quality.answer import check_mirrored, check_segmentation
from app.quality.findings import MEND, Finding, Quality, Severity, Verdict, explained, once, require
from app.quality.grid import check_grid
from app.quality.hounsfield import check_grey_values, check_lowest
from app.quality.sample import Sample
from app.quality.stack import check_stack

__all__ = [
    "MEND",
    "Finding",
    "Quality",
    "Sample",
    "Severity",
    "Verdict",
    "check_header",
    "check_mirrored",
    "check_scan",
    "check_segmentation",
    "explained",
    "once",
    "require",
]


def check_header(geometry: Geometry, lowest_hu: float) -> Quality:
    """Look at what the header of a file says; lowest_hu: the lowest value that its voxels can have."""
    return Quality(findings=(*check_grid(geometry), *check_lowest(lowest_hu)))


def check_scan(volume: Volume, sample: Sample | None = None) -> Quality:
    """Look at grid, grey values, patient and slices before anything is computed.

    sample: of the volume, where the caller has it for `check_segmentation` too.
    """
    sample = sample or Sample.of(volume)
    before = Quality(findings=(*check_grey_values(volume, sample), *check_grid(volume.geometry)))
    if before.verdict == "refuse":
        return before
    noisy = any(finding.code == "noisy" for finding in before.findings)
    return Quality(findings=(*before.findings, *check_anatomy(sample), *check_stack(volume, noisy=noisy)))
