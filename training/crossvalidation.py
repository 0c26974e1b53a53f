"""Folds by patient, one training each, resumable; the ablation of pooling that the preprint never ran."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

from training.datasets import folds, is_kept_out, kept_out_groups, patient_group
from training.export import averaged
from training.loop import fit
from training.networks import Pooling
from training.packs import Pack
from training.recipes import Recipe
from training.validation import dice_per_patient, overlaps


def training_side(pack: Pack) -> Pack:
    """The slices of the patients that may be trained on."""
    kept_out = kept_out_groups(patient_group(entry.patient) for entry in pack.entries)
    return pack.chosen([not is_kept_out(entry.patient, entry.source, kept_out) for entry in pack.entries])


def kept_out_side(pack: Pack) -> Pack:
    """The slices of the patients that no training sees."""
    kept_out = kept_out_groups(patient_group(entry.patient) for entry in pack.entries)
    return pack.chosen([is_kept_out(entry.patient, entry.source, kept_out) for entry in pack.entries])


def run_fold(recipe: Recipe, pack: Pack, held: frozenset[str], folder: Path) -> dict[str, float]:
    """Train without the held groups, score on them; the stored scores if this fold was finished before."""
    done = folder / "dice.json"
    if done.exists():
        stored: dict[str, float] = json.loads(done.read_text())
        return stored
    inside = [patient_group(entry.patient) in held for entry in pack.entries]
    checkpoint = fit(recipe, pack.chosen([not kept for kept in inside]), folder)
    scores = dice_per_patient(overlaps(averaged(recipe, checkpoint), pack.chosen(inside), recipe))
    done.write_text(json.dumps(scores, indent=1))
    return scores


def crossvalidate(recipe: Recipe, pack: Pack, folder: Path, poolings: tuple[Pooling, ...]) -> dict[str, list[float]]:
    """Mean Dice per fold for each pooling. Every fold is a folder of its own and is not trained twice."""
    groups = {patient_group(entry.patient) for entry in pack.entries if entry.source not in ("phantom", "negative")}
    table: dict[str, list[float]] = {}
    for pooling in poolings:
        changed = replace(recipe, pooling=pooling)
        for number, held in enumerate(folds(groups, recipe.folds)):
            scores = run_fold(changed, pack, held, folder / pooling / f"fold-{number}")
            if scores:
                table.setdefault(pooling, []).append(statistics.mean(scores.values()))
    return table


def as_text(table: dict[str, list[float]]) -> str:
    """The table of the ablation: a line per pooling with mean and spread over the folds."""
    lines = ["pooling   mean Dice   spread   folds"]
    for pooling, scores in table.items():
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        lines.append(f"{pooling:<9} {statistics.mean(scores):9.4f} {spread:8.4f}   {len(scores)}")
    return "\n".join(lines)
