"""fit(recipe): the whole training, readable from top to bottom.

Every step seeds the random numbers with (seed, step), so a run that was killed and resumed gives the weights of one
that was not. Shapes: B slices, H rows, W columns; h, w the working size.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from training.losses import weighted_cross_entropy, weighted_dice
from training.networks import MixedUNet, channels_last
from training.packs import Pack
from training.preprocessing import LesionInput, LiverInput, resized
from training.recipes import Recipe
from training.sampling import Examples, drawn, slice_chances


def build(recipe: Recipe) -> tuple[LiverInput | LesionInput, MixedUNet]:
    """The preprocessing and the untrained network of a recipe."""
    prepare: LiverInput | LesionInput
    if recipe.task == "liver":
        prepare = LiverInput(recipe.window_hu, recipe.size, equalise_first=recipe.equalise_first)
    else:
        prepare = LesionInput(recipe.window_hu, recipe.size)
    network = MixedUNet(
        prepare.channels, recipe.width,
        pooling=recipe.pooling, normalisation=recipe.normalisation, dropout=recipe.dropout,
    )  # fmt: skip
    return prepare, network


def loss_of(batch: Examples, prepare: nn.Module, network: nn.Module, recipe: Recipe) -> Tensor:
    """Cross entropy, with soft Dice unless the recipe leaves it out, on the working grid."""
    threshold = 1 if recipe.task == "liver" else 2
    with torch.no_grad():
        hounsfield = batch["hounsfield"]
        image = prepare(hounsfield[:, 0]) if recipe.task == "liver" else prepare(hounsfield, batch["liver"])
        image = image.contiguous(memory_format=torch.channels_last)
        planes = torch.stack(((batch["labels"] >= threshold).to(torch.float32), batch["weight"]), dim=1)
        truth, weight = resized(planes, image.shape[-2:]).unbind(dim=1)
    logit = network(image)[:, 0].to(torch.float32)
    loss = weighted_cross_entropy(logit, truth, weight)
    if recipe.loss == "dice + cross entropy":
        loss = loss + weighted_dice(logit, truth, weight)
    return loss


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate: constant, or 50 steps of warm-up and a cosine down to zero."""
    if not recipe.cosine:
        return recipe.learning_rate
    warm = min(1.0, (step + 1) / 50)
    return recipe.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * step / recipe.steps))


def average_into(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """Move the exponential mean of weights and buffers towards the network's present ones."""
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1.0 - decay)
        else:
            average[name].copy_(value)


def fit(recipe: Recipe, pack: Pack, folder: Path, watch: Callable[[int, nn.Module], None] | None = None) -> Path:
    """Train until the recipe's last step and return the checkpoint; continues from `folder/last.ckpt` if there is one.

    Writes `curve.csv` (step, loss, rate, seconds). `watch` scores the averaged network at each checkpoint; nothing is
    chosen by what it says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fabric = Fabric(accelerator="auto", devices=1, precision=recipe.precision)
    torch.manual_seed(recipe.seed)
    prepare, bare = build(recipe)
    adam = torch.optim.AdamW(bare.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    network, optimiser = fabric.setup(channels_last(bare), adam)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    state: dict[str, Any] = {"network": network, "optimiser": optimiser, "average": average, "step": 0}
    checkpoint = folder / "last.ckpt"
    if checkpoint.exists():
        fabric.load(checkpoint, state)
        average = state["average"]
    chances = slice_chances(pack, recipe)
    started, losses = time.monotonic(), []
    for step in range(state["step"], recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step + 1)
        network.train()
        batch = {name: fabric.to_device(value) for name, value in drawn(pack, chances, recipe).items()}
        loss = loss_of(batch, prepare, network, recipe)
        optimiser.param_groups[0]["lr"] = rate_at(step, recipe)
        optimiser.zero_grad()
        fabric.backward(loss)
        optimiser.step()
        average_into(average, network, min(recipe.average_decay, (1 + step) / (10 + step)))
        losses.append(float(loss.detach()))
        if (step + 1) % recipe.checkpoint_steps == 0 or step + 1 == recipe.steps:
            state["step"] = step + 1
            fabric.save(folder / "next.ckpt", state)
            (folder / "next.ckpt").replace(checkpoint)
            note(folder, step + 1, losses, rate_at(step, recipe), time.monotonic() - started)
            if watch is not None:
                _, judged = build(recipe)
                judged.load_state_dict(average)
                watch(step + 1, judged.eval())
            losses = []
    return checkpoint


def note(folder: Path, step: int, losses: list[float], rate: float, seconds: float) -> None:
    """Add a line to the curve."""
    path = folder / "curve.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "loss", "rate", "seconds"])
        writer.writerow([step, repr(float(np.mean(losses))), rate, round(seconds, 1)])
