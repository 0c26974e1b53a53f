"""The command line of `python -m training`: what can be asked for, and the recipe that it comes to."""

from __future__ import annotations

import argparse
import ast
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from training.loop import Hardware
from training.networks import Pooling
from training.recipes import RECIPES, Recipe

#: Fields of a recipe that `--set` may change: numbers and names. The rest is code.
SETTABLE = tuple(field.name for field in fields(Recipe) if field.name not in ("name", "task", "augmentation", "shares"))


def parsed(arguments: list[str], commands: list[str], description: str | None) -> argparse.Namespace:
    """The command line. Ends the program with a sentence where it makes no sense."""
    parser = argparse.ArgumentParser(
        "python -m training", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("command", choices=commands)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--task", choices=("liver", "lesion"), default="liver")
    folders = parser.add_argument_group("folders")
    folders.add_argument("--data", type=Path, default=Path(os.environ.get("HEPASEG_DATA", "data")), help="scans")
    folders.add_argument("--cache", type=Path, default=Path("runs/pack"), help="prepared slices")
    folders.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, curves, worst cases")
    folders.add_argument("--models", type=Path, default=Path("models"), help="exported files, their scores and cards")
    _recipe_options(parser.add_argument_group("instead of the recipe's numbers"))
    _training_options(parser.add_argument_group("prepare, train, crossvalidate"))
    _export_options(parser.add_argument_group("export, evaluate"))
    options = parser.parse_args(arguments)
    try:
        options.recipe = recipe_of(options)
        options.pooling = poolings(options.pooling)
    except ValueError as error:
        parser.error(str(error))
    if options.peak is not None and (options.task == "liver" or options.threshold is None):
        parser.error("--peak belongs to a lesion network, and beside --threshold")
    return options


def _recipe_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=int, help="steps of a training; the card says how many of how many")
    group.add_argument("--folds", type=int)
    group.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help=f"any of {', '.join(SETTABLE)}; the card says so"
    )


def _training_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--phantoms", type=int, default=48, help="for prepare: how many to make")
    group.add_argument("--pooling", default="mixed", help="for crossvalidate, one or several: mixed,max,average")
    group.add_argument("--watch", type=int, default=0, metavar="N", help="score N kept-out slices at each checkpoint")
    group.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 for all cores")
    group.add_argument("--accelerator", default="auto", help="for train, in Fabric's words: cpu, cuda, mps")
    group.add_argument("--devices", type=int, default=1, help="for train: how many share each batch")
    group.add_argument("--strategy", default="auto", help="for train, in Fabric's words: ddp")
    group.add_argument("--allow-changes", action="store_true", help="go on although recipe or data are not as before")


def _export_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--version", default="0.1.0", help="of the exported file")
    group.add_argument("--threshold", type=float, help="without it, what suits the patients trained on best")
    group.add_argument("--peak", type=float, help="for a lesion network with --threshold: see peak_threshold in docs")
    group.add_argument("--licence", help="of the exported file, if other data than LiTS decide it")
    group.add_argument("--beside", type=Path, metavar="DIR", help="a second folder of models for the same tables")


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that is named, with what was changed. Raises ValueError for what a recipe cannot have."""
    recipe = RECIPES[options.recipe](options.task)
    changes = dict(_change(recipe, text) for text in options.set)
    for name in ("steps", "folds"):
        value = getattr(options, name)
        if value is not None:
            changes[name] = value
    if any(changes.get(name, 1) < 1 for name in ("steps", "folds", "batch", "width", "checkpoint_steps")):
        raise ValueError("steps, folds, batch, width and checkpoint_steps begin at 1")
    if changes.get("size", 16) % 16:
        raise ValueError("size must be a multiple of 16: the network halves it four times")
    return replace(recipe, **changes)


def _change(recipe: Recipe, text: str) -> tuple[str, Any]:
    name, _, written = text.partition("=")
    if name not in SETTABLE:
        raise ValueError(f"--set {text}: a recipe has {', '.join(SETTABLE)}")
    present = getattr(recipe, name)
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError):
        value = written
    if isinstance(present, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(present):
        raise ValueError(f"--set {text}: expected something like {name}={present!r}")
    return name, value


def poolings(text: str) -> tuple[Pooling, ...]:
    """The parts of "mixed,max". Raises ValueError for others than mixed, max, average."""
    chosen: list[Pooling] = []
    for name in text.split(","):
        if name not in get_args(Pooling):
            raise ValueError(f"--pooling {name}: expected {', '.join(get_args(Pooling))}")
        chosen += [known for known in get_args(Pooling) if known == name]
    return tuple(dict.fromkeys(chosen))


def hardware(options: argparse.Namespace) -> Hardware:
    """Where to train."""
    return Hardware(options.accelerator, options.devices, options.strategy)
