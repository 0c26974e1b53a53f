"""A whole test set, two cases at a time. What was scored is kept, so that a run may be ended and begun again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from app.evaluation.cases import Case
from app.evaluation.page import evaluation_page
from app.evaluation.score import Score, Scorer
from app.evaluation.summary import summarise
from app.evaluation.tables import cases_csv, lesions_csv, show
from app.imaging.atomic import write_text
from app.jobs.memory import needed_for, room_bytes
from app.lanes import in_lanes, until
from app.scans import said_of

if TYPE_CHECKING:
    from app.inference.cascade import Cascade
    from app.pipeline import Progress
    from app.settings import Settings

#: What is written beside the cases' folders.
FILES = ("evaluation.json", "cases.csv", "lesions.csv", "evaluation.html")


def evaluate(cases: Sequence[Case], output: Path, settings: Settings, *, segments: bool) -> int:
    """Score every case, print and write the figures; returns how many cases failed or had no answer.

    segments: whether labels are made, rather than taken as they are. A case that was scored before, with the same
    files, networks and settings, is not scored again. Raises InvalidRequest or StorageFull if it cannot be written.
    """
    console = Console(stderr=True)
    try:
        made = (_cascade(settings), settings.signer()) if segments else (None, None)
        scorer = Scorer(output, settings, *made)

        def work(place: int, case: Case, stop: threading.Event) -> Score:
            progress = until(stop, lambda _stage, _share: None)
            return _scored(scorer, case, f"[{place + 1}/{len(cases)}]", console, progress)

        def needs(case: Case) -> int:
            return needed_for(case.scan, settings.limits())

        with closing(in_lanes(cases, work, needs, room_bytes(settings.memory_bytes))) as ended:
            scores = [score for _, score in sorted(ended, key=itemgetter(0))]
        summary = summarise(scores)
        texts = (
            summary.model_dump_json(indent=2) + "\n",
            cases_csv(scores),
            lesions_csv(scores),
            evaluation_page(summary, scores, output),
        )
        for name, text in zip(FILES, texts, strict=True):
            write_text(output / name, text)
    except OSError as error:
        raise said_of(error, (), output) from error
    show(Console(), summary)
    console.print(f"Written to {output / FILES[-1]}", markup=False, soft_wrap=True)
    return summary.failed + summary.no_answer


def _cascade(settings: Settings) -> Cascade:
    from app.inference.cascade import Cascade
    from app.inference.manifest import load_networks

    runtime = settings.runtime()
    return Cascade(load_networks(settings.models_dir, runtime), runtime)


def _scored(scorer: Scorer, case: Case, place: str, console: Console, on_progress: Progress) -> Score:
    score = scorer.known(case)
    was_known = score is not None
    score = score or scorer.score(case, on_progress)
    said = f"{score.code}: {score.detail}" if score.code else ""
    if score.agreement is not None:
        lesions = score.agreement.lesion.by_lesion
        figures = f"liver {score.agreement.liver.dice:.3f}, lesions {lesions.found_count} of {lesions.reference_count}"
        said = f"{figures} {said}".strip()
    took = "as before" if was_known else f"{score.seconds:.1f} s"
    colour = "red" if score.code else None
    console.print(f"{place} {case.name}: {said} ({took})", style=colour, markup=False, highlight=False, soft_wrap=True)
    return score
