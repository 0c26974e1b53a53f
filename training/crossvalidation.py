"""Folds by patient, one training each, resumable; the ablation of pooling that the preprint never ran."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from app.imaging.atomic import write_text
from training.checkpoint import RunChanged
from training.export import averaged
from training.loop import fit
from training.networks import Pooling
from training.packs import Pack
from training.provenance import Origin
from training.recipes import Recipe
from training.split import folds, kept_out, patient_group, possible_groups
from training.validation import dice_per_patient, overlaps

#: Sources whose patients are dealt into folds; the slices of the others are trained on in every fold.
DEALT = ("lits", "spread", "pairs")
#: Dice per patient, of one fold.
Scores = dict[str, float]


def training_side(pack: Pack) -> Pack:
    """The slices of the patients that may be trained on."""
    return pack.chosen([not kept for kept in kept_out(pack.entries)])


def kept_out_side(pack: Pack) -> Pack:
    """The slices of the patients that no training sees."""
    return pack.chosen(kept_out(pack.entries))


def sides(pack: Pack, held: frozenset[str]) -> tuple[Pack, Pack]:
    """What a fold trains on and what it is scored on; a slice that may be of a held patient is on neither side."""
    scored = [entry.source in DEALT and patient_group(entry.patient) in held for entry in pack.entries]
    trained = [entry.source == "phantom" or not possible_groups(entry.patient) & held for entry in pack.entries]
    return pack.chosen(trained), pack.chosen(scored)


def run_fold(recipe: Recipe, pack: Pack, held: frozenset[str], folder: Path) -> Scores:
    """Train without the held groups, score on them; the stored scores if this very fold was finished before."""
    trained, scored = sides(pack, held)
    origin, done = Origin.of(recipe, trained, devices=1), folder / "fold.json"
    if done.exists():
        stored = json.loads(done.read_text())
        changes = origin.changes(Origin(**stored["origin"]))
        if changes:
            raise RunChanged(f"{done} was made otherwise: {'; '.join(changes[:6])}. Choose another --runs folder.")
        scores: Scores = stored["dice"]
        return scores
    checkpoint = fit(recipe, trained, folder)
    scores = dice_per_patient(overlaps(averaged(recipe, checkpoint), scored, recipe))
    write_text(done, json.dumps({"origin": asdict(origin), "dice": scores}, indent=1) + "\n")
    return scores


def crossvalidate(recipe: Recipe, pack: Pack, folder: Path, poolings: Iterable[Pooling]) -> dict[Pooling, list[Scores]]:
    """The scores of every fold for each pooling. Every fold is a folder of its own and is not trained twice.

    Fold by fold, so that what has been computed at any moment can be compared.
    """
    groups = {patient_group(entry.patient) for entry in pack.entries if entry.source in DEALT}
    table: dict[Pooling, list[Scores]] = {pooling: [] for pooling in poolings}
    for number, held in enumerate(folds(groups, recipe.folds)):
        for pooling, column in table.items():
            changed = replace(recipe, pooling=pooling)
            scores = run_fold(changed, pack, held, folder / pooling / f"fold-{number}")
            if scores:
                column.append(scores)
    write_text(folder / "table.md", as_text(table) + "\n")
    return table


def as_text(table: dict[Pooling, list[Scores]]) -> str:
    """A line per pooling: the mean over the folds with its spread, and how far it is from the first, fold by fold."""
    means = {name: [statistics.mean(fold.values()) for fold in scores] for name, scores in table.items()}
    first = next(iter(means.values()))
    lines = [
        "| pooling | mean Dice over folds | SD | worst patient | less the first, fold by fold | folds | patients |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scores in table.items():
        everybody = [value for fold in scores for value in fold.values()]
        apart = [mine - other for mine, other in zip(means[name], first, strict=True)]
        against = f"{statistics.mean(apart):+.4f} ± {_spread(apart):.4f}" if means[name] is not first else "-"
        lines.append(
            f"| {name} | {statistics.mean(means[name]):.4f} | {_spread(means[name]):.4f} | {min(everybody):.3f} "
            f"| {against} | {len(scores)} | {len(everybody)} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
