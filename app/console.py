"""What the command line shows: a bar with the stage while a scan is worked on, tables at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from app.agreement import Agreement
    from app.followup.result import FollowUp
    from app.report import Report

#: The most lesions that are listed; the report has all of them.
MOST_ROWS = 20


class Bars:
    """A bar for each scan that is worked on, with stage, share and time; all are gone at the end."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        columns = (TextColumn("{task.fields[title]}"), TextColumn("{task.description:8}"), BarColumn())
        self._quiet = quiet
        # not redirected: what is printed beside them may be for a file
        self._bars = Progress(
            *columns, TaskProgressColumn(), TimeElapsedColumn(), console=console, transient=True, disable=quiet,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[str, float], None]]:
        """A further bar; gives a function that takes the stage and its share 0..1."""
        task = self._bars.add_task("", total=1.0, title=title)
        try:
            yield lambda stage, share: self._bars.update(task, description=stage, completed=share)
        finally:
            self._bars.remove_task(task)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Out of sight, while something else is printed."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()


@contextmanager
def progress_bar(console: Console, title: str, *, quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """One bar of `Bars`, gone at the end; gives a function that takes the stage and its share 0..1."""
    with Bars(console, quiet=quiet) as bars, bars.bar(title) as tell:
        yield tell


def show_report(console: Console, report: Report) -> None:
    """Print volumes, a row per lesion, the agreement with the reference, and what was noticed."""
    liver = report.liver
    console.print(
        f"Liver {liver.volume_ml:.1f} ml · lesions {report.lesion_count}, {report.lesion_volume_ml:.2f} ml, "
        f"{100 * report.lesion_burden:.2f} % of the liver · {report.timings_s.total:.1f} s"
    )
    if report.lesions:
        console.print(_lesion_table(report))
    if len(report.lesions) > MOST_ROWS:
        console.print(f"and {len(report.lesions) - MOST_ROWS} smaller, all in report.json")
    if report.follow_up is not None:
        show_follow_up(console, report.follow_up)
    if report.agreement is not None:
        console.print(_agreement_table(report.agreement))
        by_lesion = report.agreement.lesion.by_lesion
        console.print(
            f"{by_lesion.found_count} of the reference's {by_lesion.reference_count} lesions found; "
            f"{by_lesion.predicted_count - by_lesion.true_count} of {by_lesion.predicted_count} marks lie on none"
        )
    for finding in report.quality.findings:
        if finding.severity != "info":
            console.print(f"{finding.code}: {finding.detail}", style="yellow", markup=False, soft_wrap=True)


def show_follow_up(console: Console, found: FollowUp) -> None:
    """Print what became of each lesion, and the sums."""
    from app.followup.shown import HEAD, lines, rows

    table = Table(HEAD[0])
    for heading in HEAD[1:]:
        table.add_column(heading, justify="right")
    for row in list(rows(found))[:MOST_ROWS]:
        table.add_row(*row)
    if found.lesions:
        console.print(table)
    for line in lines(found):
        console.print(line, markup=False, highlight=False)


def _lesion_table(report: Report) -> Table:
    table = Table("lesion")
    for heading in ("ml", "longest\nmm", "across\nmm", "mean\nHU", "centroid\nRAS mm", "at\nborder"):
        table.add_column(heading, justify="right")
    for lesion in report.lesions[:MOST_ROWS]:
        table.add_row(
            str(lesion.id),
            f"{lesion.volume_ml:.2f}",
            f"{lesion.longest_axial_diameter_mm:.1f}",
            f"{lesion.perpendicular_diameter_mm:.1f}",
            "–" if lesion.mean_hu is None else f"{lesion.mean_hu:.0f}",
            " ".join(f"{x:.0f}" for x in lesion.centroid_mm),
            "yes" if lesion.touches_border else "no",
        )
    return table


def _agreement_table(agreement: Agreement) -> Table:
    table = Table("against the\nreference")
    for heading in ("Dice", "VOE", "RVD", "ASSD\nmm", "HD95\nmm"):
        table.add_column(heading, justify="right")
    for name in ("liver", "lesion"):
        row = getattr(agreement, name)
        values = (row.dice, row.voe, row.rvd, row.assd_mm, row.hd95_mm)
        table.add_row(name, *("–" if v is None else f"{v:.3f}" for v in values))
    return table
