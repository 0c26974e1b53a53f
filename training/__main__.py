"""python -m training {prepare|train|crossvalidate|evaluate|export} RECIPE: names a recipe, a task and folders."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from training import crf, crossvalidation, datasets, packs
from training.eight_bit import CALIBRATION_SLICES
from training.evaluate import evaluate
from training.evaluation_card import write_cards
from training.export import CardText, averaged, export
from training.golden import write_golden
from training.loop import fit
from training.manifest import registered
from training.recipes import RECIPES, Recipe
from training.validation import best_threshold, typical

#: Seeds of the phantoms that are trained on; those that are scored on are others.
PHANTOM_SEEDS = range(1000, 1048)


#: What the shipped networks learnt from; another data folder needs another sentence.
TRAINED_ON = (
    "LiTS volumes 0, 1, 2, 4, 6, slices of 75 more LiTS patients, slices without liver from LiTS and TCIA chest CT, "
    "48 randomised phantoms; the split is by patient, see README.md"
)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def prepare(recipe: Recipe, options: argparse.Namespace) -> None:
    """Write the packs of slices that training reads."""
    root = options.cache / recipe.task
    if recipe.name != "smoke":
        count = packs.write_pack(root / "scans", datasets.discover(options.data), recipe.task)
        _say(f"{count} slices of scans")
    seeds = PHANTOM_SEEDS[:1] if recipe.name == "smoke" else PHANTOM_SEEDS
    _say(f"{packs.write_pack(root / 'phantoms', datasets.phantoms(seeds), recipe.task)} slices of phantoms")


def train(recipe: Recipe, options: argparse.Namespace) -> None:
    """Fit, or go on where an earlier run was stopped."""
    pack = crossvalidation.training_side(packs.read_packs(options.cache, recipe.task))
    _say(f"{len(pack.entries)} slices of {len({entry.patient for entry in pack.entries})} patients")
    _say(f"trained: {fit(recipe, pack, options.runs / f'{recipe.name}-{recipe.task}')}")


def crossvalidate(recipe: Recipe, options: argparse.Namespace) -> None:
    """Train and score every fold for every pooling asked for, and print the table."""
    pack = packs.read_packs(options.cache, recipe.task)
    folder = options.runs / f"{recipe.name}-{recipe.task}-folds"
    poolings = tuple(options.pooling.split(","))
    _say(crossvalidation.as_text(crossvalidation.crossvalidate(recipe, pack, folder, poolings)))


def _threshold(recipe: Recipe, checkpoint: Path, options: argparse.Namespace) -> float:
    """What suits the real scans that were trained on best."""
    pack = crossvalidation.training_side(packs.read_packs(options.cache, recipe.task))
    labelled = [entry.lesions_labelled or recipe.task == "liver" for entry in pack.entries]
    real = [entry.source != "phantom" for entry in pack.entries]
    chosen = pack.chosen([a and b for a, b in zip(labelled, real, strict=True)])
    threshold = best_threshold(averaged(recipe, checkpoint), chosen, recipe)
    _say(f"threshold {threshold}, by Dice on the patients trained on")
    return threshold


def export_network(recipe: Recipe, options: argparse.Namespace) -> None:
    """Checkpoint → ONNX file and manifest entry; the CRF, which nobody trains, is written beside it."""
    with_liver = ""
    if recipe.task == "lesion":
        with_liver = registered(options.models)["liver"]["sha256"]
    folder = options.runs / f"{recipe.name}-{recipe.task}"
    text = CardText(
        version=options.version,
        threshold=options.threshold or _threshold(recipe, folder / "last.ckpt", options),
        trained_on=options.trained_on,
        trained_with=with_liver,
    )
    learnt = crossvalidation.training_side(packs.read_packs(options.cache, recipe.task))
    images = typical(learnt, recipe, CALIBRATION_SLICES)
    _say(f"exported: {export(recipe, folder / 'last.ckpt', text, options.models, images)}")
    _say(f"exported: {crf.export(options.models)}")


def evaluate_files(recipe: Recipe, options: argparse.Namespace) -> None:
    """Score the files in models/ on the patients kept out, and write the cards from the result."""
    results = evaluate(options.models, options.data)
    write_cards(options.models, results)
    write_golden(options.models)
    _say(f"scored {recipe.task}: {options.models / 'evaluation.json'}")


COMMANDS = {
    "prepare": prepare,
    "train": train,
    "crossvalidate": crossvalidate,
    "evaluate": evaluate_files,
    "export": export_network,
}


def options_of(arguments: list[str]) -> argparse.Namespace:
    """The command line, parsed."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--task", choices=("liver", "lesion"), default="liver")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HEPASEG_DATA", "data")))
    parser.add_argument("--cache", type=Path, default=Path("runs/pack"), help="where prepared slices lie")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints and curves")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--steps", type=int, help="instead of the recipe's number")
    parser.add_argument("--folds", type=int, help="instead of the recipe's number")
    parser.add_argument("--pooling", default="mixed", help="for crossvalidate: mixed,max,average")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 for all cores")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--threshold", type=float, help="default: chosen on training patients")
    parser.add_argument("--trained-on", default=TRAINED_ON)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    options = options_of(sys.argv[1:] if arguments is None else arguments)
    recipe = RECIPES[options.recipe](options.task)
    recipe = replace(recipe, steps=options.steps or recipe.steps, folds=options.folds or recipe.folds)
    if options.threads:
        torch.set_num_threads(options.threads)
    COMMANDS[options.command](recipe, options)


if __name__ == "__main__":
    main()
