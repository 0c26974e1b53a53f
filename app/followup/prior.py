"""The labels of an earlier scan, on whatever grid, and what the report beside them says about how sure they are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from app.errors import InputError, InvalidPrior
from app.followup.estimate import Interval
from app.imaging.lesions import number_lesions
from app.imaging.scan import Limits, read_own_labels
from app.imaging.volume import Segmentation


class _PriorLesion(BaseModel):
    id: int
    volume_ml: float
    volume_interval_ml: Interval | None = None


class _EarlierReport(BaseModel):
    lesions: tuple[_PriorLesion, ...]
    lesions_split: bool = False


@dataclass(frozen=True, eq=False)
class Prior:
    """intervals_ml: by lesion, where the report gives them. The sums are those of the files as they were taken in."""

    segmentation: Segmentation
    labels_sha256: str
    report_sha256: str | None = None
    intervals_ml: Mapping[int, Interval] | None = None


def read_prior(labels: Path, report: Path | None, limits: Limits, *, split_lesions: bool) -> Prior:
    """Read labels 0, 1, 2 and the report.json that was written with them, if there is one.

    split_lesions: whether lesions that touch are split where no report says it. Raises InvalidPrior.
    """
    try:
        segmentation, sha256 = read_own_labels(labels, limits)
    except InputError as error:
        raise InvalidPrior(f"The prior's labels cannot be read. {error.detail}") from error
    if report is None:
        return Prior(Segmentation(segmentation.labels, segmentation.geometry, None, split_lesions), sha256)
    text = report.read_bytes()
    try:
        said = _EarlierReport.model_validate_json(text)
    except ValidationError as error:
        raise InvalidPrior("The report beside the prior's labels is no report of this service.") from error
    segmentation = Segmentation(segmentation.labels, segmentation.geometry, None, said.lesions_split)
    _require_same_lesions(segmentation, said)
    intervals = {each.id: each.volume_interval_ml for each in said.lesions if each.volume_interval_ml is not None}
    return Prior(segmentation, sha256, hashlib.sha256(text).hexdigest(), intervals)


def _require_same_lesions(segmentation: Segmentation, said: _EarlierReport) -> None:
    counts = number_lesions(segmentation).voxel_counts
    found = {n: int(count) * segmentation.geometry.voxel_volume_ml for n, count in enumerate(counts, start=1)}
    stated = {each.id: each.volume_ml for each in said.lesions}
    if found.keys() != stated.keys() or any(not math.isclose(found[n], stated[n], rel_tol=1e-6) for n in found):
        raise InvalidPrior("The report beside the prior's labels is about other lesions: send both as they were made.")
