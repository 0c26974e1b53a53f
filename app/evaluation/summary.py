"""Many scores as a few figures, each with its number of cases and a bootstrap interval.

Cases are drawn, not lesions: the lesions of one patient have much in common. A case where the pipeline had no answer
counts as empty labels; one that failed counts nowhere but in `failed`. Lesion figures are over the cases whose
reference has a lesion; the others are healthy livers, judged by the false lesions in them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import DegenerateDataWarning, bootstrap

from app.agreement import LesionAgreement, MaskAgreement
from app.evaluation.score import Score
from app.matching import ANY_OVERLAP, IOU_ABOVE_HALF, SIZE_CLASSES, LesionMatches, MatchesByRule

RESAMPLES = 9999
CONFIDENCE = 0.95
#: What is averaged over cases, in the order in which it is shown.
METRICS = (
    *("dice", "voe", "rvd", "assd_mm", "rmsd_mm", "hd95_mm", "hd_mm", "nsd_1mm", "nsd_2mm", "nsd_3mm", "nsd_5mm"),
    *("volume_error_ml", "volume_error_percent"),
)
INTERVAL = f"{CONFIDENCE:.0%} percentile bootstrap over cases, {RESAMPLES} resamples"

Floats = npt.NDArray[np.float64]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Estimate(_Frozen):
    """A figure over n cases; null where nothing can be divided by, without an interval for fewer than two cases."""

    n: int
    value: float | None
    interval: tuple[float, float] | None


class Metric(Estimate):
    """A mean over cases, with the median and the extremes."""

    sd: float | None
    median: float | None
    least: float | None
    most: float | None


class Detection(_Frozen):
    """Lesions of all cases together under one rule."""

    reference_count: int
    predicted_count: int
    found_count: int
    true_count: int
    recall: Estimate
    precision: Estimate
    f1: Estimate


class Rule(_Frozen):
    """One matching rule in words, and the lesions under it: all, and by size."""

    rule: str
    all_sizes: Detection
    by_size: dict[str, Detection]


class Lengths(_Frozen):
    """Error of the longest axial diameter (RECIST), predicted less reference, over the lesions that were seen."""

    lesions: int
    mean_mm: Estimate
    mean_absolute_mm: Estimate


class Healthy(_Frozen):
    """Cases whose reference has no lesion."""

    cases: int
    with_false_lesions: int
    false_lesions: Estimate


class Summary(_Frozen):
    """The figures of a test set. docs/answers.md defines each."""

    cases: int
    scored: int
    no_answer: int
    failed: int
    interval: str = INTERVAL
    liver: dict[str, Metric]
    lesion: dict[str, Metric]
    liver_dice_global: Estimate
    lesion_dice_global: Estimate
    detection: tuple[Rule, ...]
    longest_diameter_error: Lengths
    healthy: Healthy


def summarise(scores: Sequence[Score]) -> Summary:
    """The figures of a test set. The same scores give the same intervals."""
    found = [score.agreement for score in scores if score.agreement is not None]
    livers = [each.liver for each in found if each.liver.reference_voxels]
    lesions = [each.lesion for each in found if each.lesion.reference_voxels]
    statuses = [score.status for score in scores]
    return Summary(
        cases=len(scores),
        scored=statuses.count("scored"),
        no_answer=statuses.count("no_answer"),
        failed=statuses.count("failed"),
        liver=_metrics(livers),
        lesion=_metrics(lesions),
        liver_dice_global=_global_dice([each.liver for each in found]),
        lesion_dice_global=_global_dice([each.lesion for each in found]),
        detection=(
            _rule(ANY_OVERLAP, [each.lesion.by_lesion for each in found]),
            _rule(IOU_ABOVE_HALF, [each.lesion.by_lesion_iou for each in found if each.lesion.by_lesion_iou]),
        ),
        longest_diameter_error=_lengths(lesions),
        healthy=_healthy([each.lesion for each in found if not each.lesion.reference_voxels]),
    )


def _metrics(masks: Sequence[MaskAgreement]) -> dict[str, Metric]:
    return {name: _metric([getattr(mask, name) for mask in masks]) for name in METRICS}


def _metric(values: Iterable[float | None]) -> Metric:
    """Over the cases in which it is defined."""
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    mean = _ratio(defined, np.ones(len(defined)))
    if not len(defined):
        return Metric(**mean.model_dump(), sd=None, median=None, least=None, most=None)
    return Metric(
        **mean.model_dump(),
        sd=float(defined.std(ddof=1)) if len(defined) > 1 else None,
        median=float(np.median(defined)),
        least=float(defined.min()),
        most=float(defined.max()),
    )


def _global_dice(masks: Sequence[MaskAgreement]) -> Estimate:
    """LiTS' global Dice: over the voxels of all cases as if they were one."""
    counts = np.array([(m.shared_voxels, m.voxels, m.reference_voxels) for m in masks], dtype=np.float64).reshape(-1, 3)
    return _ratio(2 * counts[:, 0], counts[:, 1] + counts[:, 2])


def _rule(rule: str, matches: Sequence[MatchesByRule]) -> Rule:
    by_size = {name: _detection([each.by_size[name] for each in matches]) for name in SIZE_CLASSES}
    return Rule(rule=rule, all_sizes=_detection(matches), by_size=by_size)


def _detection(matches: Sequence[LesionMatches]) -> Detection:
    names = ("reference_count", "predicted_count", "found_count", "true_count")
    counts = {name: np.array([getattr(each, name) for each in matches], dtype=np.float64) for name in names}
    return Detection(
        **{name: int(values.sum()) for name, values in counts.items()},
        recall=_ratio(counts["found_count"], counts["reference_count"]),
        precision=_ratio(counts["true_count"], counts["predicted_count"]),
        f1=_estimate(_f1, [counts[name] for name in names]),
    )


def _f1(reference: Floats, predicted: Floats, found: Floats, true: Floats) -> Floats:
    """Of sums over cases; 0 if nothing matches, NaN if there is nothing to match."""
    recall, precision = _divided(found, reference), _divided(true, predicted)
    f1 = _divided(2 * recall * precision, recall + precision)
    return np.where(np.isnan(f1) & (reference + predicted > 0), 0.0, f1)


def _lengths(lesions: Sequence[LesionAgreement]) -> Lengths:
    errors = [
        np.array([
            row.longest_diameter_error_mm for row in each.reference_lesions if row.longest_diameter_error_mm is not None
        ])
        for each in lesions
    ]  # fmt: skip
    seen = [each for each in errors if len(each)]
    counts = np.array([len(each) for each in seen], dtype=np.float64)
    return Lengths(
        lesions=int(counts.sum()),
        mean_mm=_ratio(np.array([each.sum() for each in seen]), counts),
        mean_absolute_mm=_ratio(np.array([np.abs(each).sum() for each in seen]), counts),
    )


def _healthy(lesions: Sequence[LesionAgreement]) -> Healthy:
    false = np.array([each.by_lesion.predicted_count for each in lesions], dtype=np.float64)
    return Healthy(
        cases=len(false),
        with_false_lesions=int(np.count_nonzero(false)),
        false_lesions=_ratio(false, np.ones(len(false))),
    )


def _ratio(numerators: Floats, denominators: Floats) -> Estimate:
    """The sum of the one over that of the other: a mean if the denominators are 1."""
    return _estimate(_divided, [numerators, denominators])


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator != 0, numerator / denominator, np.nan)


def _estimate(figure: Callable[..., Floats], columns: Sequence[Floats]) -> Estimate:
    """A figure of sums over cases, and the interval that it has when cases are drawn again, with replacement.

    columns: one number a case each. Draws in which the figure is not defined are left out.
    """
    count = len(columns[0])
    value = float(figure(*(column.sum() for column in columns))) if count else np.nan
    if np.isnan(value):
        return Estimate(n=count, value=None, interval=None)
    if count < 2:
        return Estimate(n=count, value=value, interval=None)
    low, high = np.nanpercentile(_draws(figure, columns), (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    return Estimate(n=count, value=value, interval=(float(low), float(high)))


def _draws(figure: Callable[..., Floats], columns: Sequence[Floats]) -> Floats:
    with warnings.catch_warnings():
        # SciPy's own interval is none if any draw is not defined; only the draws are taken.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            columns,
            lambda *drawn, axis=-1: figure(*(each.sum(axis=axis) for each in drawn)),
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return np.asarray(result.bootstrap_distribution, dtype=np.float64)
