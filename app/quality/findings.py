"""What is said about a scan or an answer: a stable code, how serious it is, what was seen and what to mend."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, computed_field

from app.errors import NoLiver, NotCT

Severity = Literal["info", "warn", "refuse"]
Verdict = Literal["accept", "warn", "refuse"]

_EXPORT_HU = "Export the CT again in Hounsfield units, with rescale slope and intercept applied once."
_EXPORT_ALL = "Export the series again with all of its slices, each once and in order."
_CHECK_ORIENTATION = (
    "Check where the file says left, right, front, back, head and foot are; if that is wrong, so is the answer."
)
_SEND_ABDOMEN = "Send the whole upper abdomen."
_LOOK = "Compare the mask with the scan before using its numbers."

#: Every code of a verdict, and what its reader can mend. Codes are stable; docs/answers.md explains each.
MEND: dict[str, str] = {
    # refused before the networks
    "constant_image": "Send the CT itself.",
    "not_ct": "Send a CT, neither MR nor photograph, in Hounsfield units: its rescale intercept (often -1024) applied.",
    "not_hounsfield": _EXPORT_HU,
    "too_few_pixels": "Send the axial slices at full size.",
    # warned of before the networks: grid
    "few_slices": _SEND_ABDOMEN,
    "little_coverage": _SEND_ABDOMEN,
    "field_of_view": "Check the voxel sizes in the file: volumes and diameters follow from them.",
    "not_axial": "Send the axial series.",
    "oblique": "Send the straight axial series, if there is one.",
    # grey values
    "air_hu": _EXPORT_HU,
    "fat_hu": _EXPORT_HU,
    "fat_clipped": "Export the CT again without clipping, or clip at -160 HU or lower.",
    "bright_rim": "Send a CT in Hounsfield units. " + _LOOK,
    "noisy": "Send a smoother reconstruction, or thicker slices. " + _LOOK,
    # the patient on the grid
    "axes_swapped": _CHECK_ORIENTATION,
    "quarter_turn": _CHECK_ORIENTATION,
    "front_back_swapped": _CHECK_ORIENTATION,
    "upside_down": _CHECK_ORIENTATION,
    # the stack of slices
    "blank_slices": _EXPORT_ALL,
    "repeated_slices": _EXPORT_ALL,
    "slice_gap": _EXPORT_ALL,
    "slices_disordered": _EXPORT_ALL,
    # after the networks
    "liver_on_left": _CHECK_ORIENTATION,
    "liver_cut_off": "Send more of the scan, if there is more; volumes may be incomplete.",
    "liver_small": _LOOK,
    "liver_large": _LOOK,
    "liver_hu": _LOOK,
    "liver_ragged": _LOOK,
    "liver_in_pieces": _LOOK,
    "lesion_burden_high": _LOOK,
    "metal": "Streaks may hide or feign lesions. " + _LOOK,
    "phase_native": "Send the portal-venous phase, if there is one; without contrast lesions are easily missed.",
    "phase_arterial": "Send the portal-venous phase, if there is one; the networks learnt mostly from it.",
}


class Finding(BaseModel):
    """One thing worth knowing: a stable code, how serious it is, and words."""

    model_config = ConfigDict(frozen=True)

    code: str
    severity: Severity
    detail: str


class Quality(BaseModel):
    """All findings about a scan; `verdict` is that of the most serious one."""

    model_config = ConfigDict(frozen=True)

    findings: tuple[Finding, ...] = ()

    @computed_field  # type: ignore[prop-decorator]  # mypy does not know decorated properties
    @property
    def verdict(self) -> Verdict:
        """Refuse, warn or accept."""
        severities = {finding.severity for finding in self.findings}
        if "refuse" in severities:
            return "refuse"
        return "warn" if "warn" in severities else "accept"


def warning(code: str, seen: str) -> Finding:
    """The answer is given, and its reader told. Raises KeyError for a code that `MEND` does not list."""
    return Finding(code=code, severity="warn", detail=f"{seen} {MEND[code]}")


def refusal(code: str, seen: str) -> Finding:
    """Nothing is computed. Raises KeyError for a code that `MEND` does not list."""
    return Finding(code=code, severity="refuse", detail=f"{seen} {MEND[code]}")


def once(*findings: Finding) -> Quality:
    """All of them, of each code the first."""
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.code, finding)
    return Quality(findings=tuple(first.values()))


def require(quality: Quality) -> None:
    """Raise NotCT, with the code of the first refusal and the sentences of all, if the scan was refused."""
    refusals = [finding for finding in quality.findings if finding.severity == "refuse"]
    if refusals:
        raise NotCT(" ".join(finding.detail for finding in refusals), code=refusals[0].code)


def explained(error: NoLiver, *found: Finding) -> NoLiver:
    """The same error, with what else is odd about the scan: that may be why no liver was found."""
    odd = [finding.detail for finding in found if finding.severity == "warn"]
    return NoLiver(" ".join([error.detail, *odd]), code=error.code)
