"""The figures of a test set as CSV, a row a case and a row a lesion, and as tables on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from app.agreement import Agreement
from app.evaluation.score import Score
from app.evaluation.summary import METRICS, Estimate, Metric, Summary

Row = dict[str, object]

#: Those of the metrics that fit a terminal and a page; the CSV and the JSON have all.
SHOWN = ("dice", "voe", "rvd", "assd_mm", "rmsd_mm", "hd95_mm", "hd_mm", "nsd_2mm", "volume_error_ml")
_COUNTS = ("reference_count", "predicted_count", "found_count", "true_count")


def cases_csv(scores: Sequence[Score]) -> str:
    """A row a case: its status, every metric of liver and lesions, and its lesions under both rules."""
    return _csv(_case_row(score) for score in scores)


def lesions_csv(scores: Sequence[Score]) -> str:
    """A row a lesion: those of the references with their partners, and the predicted ones that lie on none."""
    return _csv(row for score in scores if score.agreement for row in _lesion_rows(score.name, score.agreement))


def _case_row(score: Score) -> Row:
    row: Row = {"case": score.name, "status": score.status, "code": score.code, "seconds": score.seconds}
    for name in ("liver", "lesion"):
        mask = None if score.agreement is None else getattr(score.agreement, name)
        row |= {f"{name}_{metric}": None if mask is None else getattr(mask, metric) for metric in METRICS}
        row |= {f"{name}_{key}": None if mask is None else getattr(mask, key) for key in ("voxels", "reference_voxels")}
    for rule in ("by_lesion", "by_lesion_iou"):
        counts = None if score.agreement is None else getattr(score.agreement.lesion, rule)
        row |= {f"{rule}_{name}": None if counts is None else getattr(counts, name) for name in _COUNTS}
    return row


def _lesion_rows(case: str, agreement: Agreement) -> Iterator[Row]:
    for lesion in agreement.lesion.reference_lesions:
        right, anterior, superior = lesion.centroid_mm
        yield {
            "case": case,
            "reference_id": lesion.id,
            **lesion.model_dump(exclude={"id", "centroid_mm"}),
            "right_mm": right,
            "anterior_mm": anterior,
            "superior_mm": superior,
        }
    for predicted_id in agreement.lesion.false_lesions:
        yield {"case": case, "reference_id": None, "predicted_id": predicted_id}


def _csv(rows: Iterable[Row]) -> str:
    listed = list(rows)
    columns = list(dict.fromkeys(name for row in listed for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns or ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return out.getvalue()


def with_interval(estimate: Estimate, digits: int = 3) -> str:
    """Such as "0.951 (0.940 to 0.962)"; a dash where there is nothing."""
    if estimate.value is None:
        return "–"
    value = f"{estimate.value:.{digits}f}"
    if estimate.interval is None:
        return value
    low, high = estimate.interval
    return f"{value} ({low:.{digits}f} to {high:.{digits}f})"


def number(value: float | None, digits: int = 3) -> str:
    """A dash where there is nothing."""
    return "–" if value is None else f"{value:.{digits}f}"


def metric_rows(metrics: dict[str, Metric]) -> Iterator[tuple[str, ...]]:
    """Metric, cases, mean with its interval, SD, median, least and most."""
    for name in METRICS:
        metric = metrics[name]
        spread = (number(each) for each in (metric.sd, metric.median, metric.least, metric.most))
        yield (name, str(metric.n), with_interval(metric), *spread)


METRIC_HEAD = ("metric", "cases", "mean (95 % interval)", "SD", "median", "least", "most")
DETECTION_HEAD = ("lesions", "in reference", "predicted", "recall", "precision", "F1")


def detection_rows(summary: Summary) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Of each rule its words, and a row for all lesions and for each size."""
    for rule in summary.detection:
        sizes = {"all": rule.all_sizes, **{name.replace("_", " "): each for name, each in rule.by_size.items()}}
        yield (
            rule.rule,
            [
                (
                    name,
                    str(each.reference_count),
                    str(each.predicted_count),
                    *(with_interval(figure, 2) for figure in (each.recall, each.precision, each.f1)),
                )
                for name, each in sizes.items()
            ],
        )


def remarks(summary: Summary) -> Iterator[str]:
    """The figures that need no table, a sentence each."""
    liver, lesion = summary.liver_dice_global, summary.lesion_dice_global
    yield f"Global Dice: liver {with_interval(liver)}, lesions {with_interval(lesion)}."
    lengths = summary.longest_diameter_error
    yield (
        f"Longest axial diameter of {lengths.lesions} lesions that were seen: mean error "
        f"{with_interval(lengths.mean_mm, 1)} mm, mean absolute error {with_interval(lengths.mean_absolute_mm, 1)} mm."
    )
    healthy = summary.healthy
    yield (
        f"Livers without a lesion: {healthy.cases}, with false lesions: {healthy.with_false_lesions}, "
        f"false lesions a liver: {with_interval(healthy.false_lesions, 2)}."
    )
    yield f"Intervals: {summary.interval}."


def counted(summary: Summary) -> str:
    """What became of the cases, in a sentence."""
    return (
        f"{summary.cases} cases: {summary.scored} scored, {summary.no_answer} without an answer (counted as empty "
        f"labels), {summary.failed} failed (counted nowhere)."
    )


def show(console: Console, summary: Summary) -> None:
    """Print the figures of a test set."""
    console.print(counted(summary))
    for title, metrics in (("Liver", summary.liver), ("Lesions, where the reference has any", summary.lesion)):
        console.print(_table(title, METRIC_HEAD, (row for row in metric_rows(metrics) if row[0] in SHOWN)))
    for rule, rows in detection_rows(summary):
        console.print(_table(rule, DETECTION_HEAD, rows))
    for remark in remarks(summary):
        console.print(remark, soft_wrap=True, highlight=False)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for n, name in enumerate(head):
        table.add_column(name, justify="right" if n else "left")
    for row in rows:
        table.add_row(*row)
    return table
