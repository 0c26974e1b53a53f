"""Scores of the EXPORTED files through the service's own cascade, on patients that no training saw.

What is scored is what is shipped: `app.inference` runs the graphs, thresholds come from their cards, the cascade is
the service's. The result is a plain dictionary, written to evaluation.json beside the files; a second folder of
networks can be scored on the very same cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from app.imaging.atomic import write_text
from app.imaging.volume import Segmentation
from training.datasets import Case, Pair, listed, phantoms
from training.judge import Judge, Overlap, Results
from training.painted import painted_slices
from training.sheets import WorstCases
from training.split import Belongs, DataError, kept_out, patient_group

#: Seeds of the phantoms that are scored on; training uses others.
SCORED_PHANTOMS = (1, 2, 3)
#: Sources of whole volumes.
WHOLE = ("lits", "pairs")


def split_items(data: Path) -> list[tuple[Pair | Case, bool]]:
    """All that lies under `data`, scans not read yet, and whether its patient is kept out of every training."""
    items: list[Pair | Case] = []
    for found in listed(data):
        items += [found] if isinstance(found, Pair) else found.read()
    known: list[Belongs] = list(items)
    return list(zip(items, kept_out(known), strict=True))


def kept_out_cases(data: Path) -> Iterator[Case]:
    """The cases of patients that no training saw, negatives included; whole volumes are read one at a time.

    Raises DataError if nobody is kept out.
    """
    items = split_items(data)
    chosen = [item for item, kept in items if kept]
    if not any(item.source != "negative" for item in chosen):
        patients = len({patient_group(item.patient) for item, _ in items})
        raise DataError(f"of the {patients} patients under {data} none with liver is kept out: two or more are needed")
    for item in chosen:
        yield from item.read() if isinstance(item, Pair) else [item]


@dataclass
class People:
    """Who was scored, and how cases are called in what is published.

    Public data keep their names, a hospital's own get running numbers.
    """

    own: dict[str, str] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=dict)

    def name(self, case: Case) -> str:
        """The case's name; of single slices the patient's."""
        self.groups.setdefault(case.source, set()).add(patient_group(case.patient))
        if case.source == "pairs":
            return self.own.setdefault(case.name, f"own scan {len(self.own) + 1}")
        return case.name if case.source in WHOLE else case.patient

    def results(self) -> Results:
        """How many patients of each source, and the public ones by name."""
        public = {group for source, found in self.groups.items() if source != "pairs" for group in found}
        counts = {source: len(found) for source, found in sorted(self.groups.items())}
        return {"kept_out": counts, "kept_out_patients": sorted(public)}


def evaluate(models_dir: Path, data: Path, beside: Path | None = None, pictures: Path | None = None) -> Results:
    """All scores of the files that the manifest names, also written to `models_dir/evaluation.json`.

    beside: another folder of networks, whose scores become `results["beside"]`. pictures: where the worst cases are
    drawn. Raises DataError where nobody is kept out, or where a network was trained on somebody who is.
    """
    judges = [Judge.of(folder) for folder in (models_dir, beside) if folder is not None]
    people, worst = People(), {"liver": WorstCases(1), "lesion": WorstCases(2)}
    for case in tqdm(kept_out_cases(data), "cases kept out", disable=None):
        if case.source == "negative" and any(judge.known_to(case) for judge in judges):
            continue  # one of the two patients whose it may be was trained on
        name = people.name(case)
        answers = [_answer(judge, case, name) for judge in judges]
        _remember(worst, f"{name} ({case.name})", case, answers[0])
        _paint(judges, case)
    for case in phantoms(SCORED_PHANTOMS):
        for judge in judges:
            judge.phantom(case)
    results = judges[0].results() | people.results()
    if beside is not None:
        results["beside"] = judges[1].results()
    write_text(models_dir / "evaluation.json", json.dumps(results, indent=1) + "\n")
    if pictures is not None:
        for task, sheets in worst.items():
            sheets.write(pictures / task)
    return results


def _answer(judge: Judge, case: Case, name: str) -> Segmentation | None:
    judge.refuse_known(case)
    if case.source == "negative":
        judge.negative(case)
        return None
    return judge.whole(name, case) if case.source in WHOLE else judge.slices(name, case)


def _remember(worst: dict[str, WorstCases], name: str, case: Case, answer: Segmentation | None) -> None:
    """Keep the case for the pictures: of the liver, and of the lesions if it has any that were labelled."""
    if answer is None:
        return
    found_kji = answer.labels.T
    for task, label in (("liver", 1), ("lesion", 2)):
        if (case.labels_kji >= label).any():
            dice = Overlap().add(found_kji >= label, case.labels_kji >= label)
            worst[task].add(name, dice, case.hounsfield_kji, case.labels_kji, found_kji)


def _paint(judges: list[Judge], case: Case) -> None:
    for painted in painted_slices(case) if case.source != "negative" else ():
        for judge in judges:
            judge.paint(painted)
