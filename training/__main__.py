"""python -m training {prepare|train|crossvalidate|evaluate|export} RECIPE: names a recipe, a task and folders."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric.utilities import rank_zero_only
from tqdm import tqdm

from app.errors import HepasegError
from training import crf, crossvalidation, datasets, packs
from training.checkpoint import NAME, RunChanged, summary
from training.eight_bit import CALIBRATION_SLICES, NotQuantised
from training.evaluate import evaluate
from training.evaluation_card import write_cards
from training.export import CardText, NotExported, averaged, export
from training.golden import write_golden
from training.loop import fit
from training.manifest import registered
from training.options import hardware, parsed
from training.packs import Pack
from training.provenance import as_trained, counted, in_words, steps_in_words
from training.recipes import Recipe
from training.split import DataError
from training.validation import best_threshold, best_thresholds, typical, watcher

#: Seed of the first phantom that is trained on; those that are scored on are others.
FIRST_PHANTOM = 1000
#: What the person at the keyboard can mend: one sentence, no traceback.
MENDABLE = (DataError, RunChanged, NotExported, NotQuantised, HepasegError, FileNotFoundError)


@rank_zero_only
def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def prepare(recipe: Recipe, options: argparse.Namespace) -> None:
    """Write the packs of slices that training reads."""
    root = options.cache / recipe.task
    if recipe.name != "smoke":
        found = tqdm(datasets.listed(options.data), "scans", disable=None)
        count = packs.write_pack(root / "scans", (case for item in found for case in item.read()), recipe.task)
        _say(f"{count} slices of scans")
    seeds = range(FIRST_PHANTOM, FIRST_PHANTOM + (1 if recipe.name == "smoke" else options.phantoms))
    made = datasets.phantoms(tqdm(seeds, "phantoms", disable=None))
    _say(f"{packs.write_pack(root / 'phantoms', made, recipe.task)} slices of phantoms")


def train(recipe: Recipe, options: argparse.Namespace) -> None:
    """Fit, or go on where an earlier run was stopped."""
    pack = packs.read_packs(options.cache, recipe.task)
    learnt = crossvalidation.training_side(pack)
    _say(f"training on {in_words(counted(learnt))}")
    watch = watcher(crossvalidation.kept_out_side(pack), recipe, options.watch) if options.watch else None
    folder = _run_folder(recipe, options)
    done = fit(recipe, learnt, folder, watch, hardware(options), allow_changes=options.allow_changes)
    _say(f"trained: {done}")


def crossvalidate(recipe: Recipe, options: argparse.Namespace) -> None:
    """Train and score every fold for every pooling asked for, and print the table."""
    pack = packs.read_packs(options.cache, recipe.task)
    folder = options.runs / f"{recipe.name}-{recipe.task}-folds"
    _say(crossvalidation.as_text(crossvalidation.crossvalidate(recipe, pack, folder, options.pooling)))


def _run_folder(recipe: Recipe, options: argparse.Namespace) -> Path:
    folder: Path = options.runs / f"{recipe.name}-{recipe.task}"
    return folder


def _thresholds(recipe: Recipe, options: argparse.Namespace, learnt: Pack) -> tuple[float, float | None]:
    """Threshold, and of lesions that of the peak: what suits the real scans that were trained on best."""
    if options.threshold:
        return options.threshold, options.peak
    labelled = [entry.lesions_labelled or recipe.task == "liver" for entry in learnt.entries]
    real = [entry.source != "phantom" for entry in learnt.entries]
    chosen = learnt.chosen([a and b for a, b in zip(labelled, real, strict=True)])
    network = averaged(recipe, _run_folder(recipe, options) / NAME)
    if recipe.task == "liver":
        found: tuple[float, float | None] = (best_threshold(network, chosen, recipe), None)
    else:
        found = best_thresholds(network, chosen, recipe)
    _say(f"threshold {found[0]}, of the peak {found[1]}, by Dice on the patients trained on")
    return found


def export_network(recipe: Recipe, options: argparse.Namespace) -> None:
    """Checkpoint → ONNX file and manifest entry; the CRF, which nobody trains, is written beside it."""
    with_liver = ""
    if recipe.task == "lesion":
        if "liver" not in registered(options.models):
            raise NotExported(f"export the liver network into {options.models} first: a lesion network works behind it")
        with_liver = registered(options.models)["liver"]["sha256"]
    path = _run_folder(recipe, options) / NAME
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `python -m training train {recipe.name} --task {recipe.task}` first")
    step, origins = summary(path)
    unrefined = () if recipe.refine else (recipe.task,)
    recipe = as_trained(recipe, origins)
    learnt = crossvalidation.training_side(packs.read_packs(options.cache, recipe.task))
    data = origins[-1].data if origins else counted(learnt)
    threshold, peak_threshold = _thresholds(recipe, options, learnt)
    text = CardText(
        version=options.version,
        threshold=threshold,
        peak_threshold=peak_threshold,
        trained_on=f"{in_words(data)}; {steps_in_words(step, origins)}",
        trained_with=with_liver,
        training={"step": step, "steps": steps_in_words(step, origins), "data": data},
    )
    if options.licence:
        text = replace(text, licence=options.licence)
    images = typical(learnt, recipe, CALIBRATION_SLICES)
    _say(f"exported: {export(recipe, path, text, options.models, images)}")
    _say(f"exported: {crf.export(options.models, unrefined=unrefined)}")


def evaluate_files(recipe: Recipe, options: argparse.Namespace) -> None:
    """Score the files in models/ on the patients kept out, and write the cards from the result."""
    pictures = options.runs / "worst"
    results = evaluate(options.models, options.data, options.beside, pictures)
    write_cards(options.models, results, options.beside)
    write_golden(options.models)
    _say(f"{recipe.name}: scores in {options.models}/README.md and evaluation.json, worst cases in {pictures}")


COMMANDS = {
    "prepare": prepare,
    "train": train,
    "crossvalidate": crossvalidate,
    "evaluate": evaluate_files,
    "export": export_network,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; what its user can mend ends it with a sentence and exit status 1."""
    options = parsed(sys.argv[1:] if arguments is None else arguments, list(COMMANDS), __doc__)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        COMMANDS[options.command](options.recipe, options)
    except MENDABLE as error:
        sys.exit(f"python -m training {options.command}: {error}")


if __name__ == "__main__":
    main()
