"""fit(recipe): the whole training, readable from top to bottom.

Every step seeds the random numbers with (seed, step, process), and a checkpoint holds all that a step depends on: a run
that was killed at any moment and started again gives the weights of one that was not. Shapes: B slices, H rows,
W columns; h, w the working size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from training import checkpoint, curves
from training.checkpoint import Run
from training.losses import weighted_cross_entropy, weighted_dice
from training.networks import MixedUNet, channels_last
from training.packs import Pack
from training.preprocessing import LesionInput, LiverInput, PaperLesionInput, resized
from training.provenance import Origin
from training.recipes import Recipe
from training.sampling import Examples, drawn, slice_chances

Prepare = LiverInput | LesionInput | PaperLesionInput
#: Scores the averaged network after a step; what it returns is drawn beside the loss, and nothing is chosen by it.
Watch = Callable[[int, nn.Module], float | None]


@dataclass(frozen=True)
class Hardware:
    """Where a training runs, in Fabric's words. Several devices share each batch of the recipe evenly."""

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"


ONE_DEVICE = Hardware()


def build(recipe: Recipe) -> tuple[Prepare, MixedUNet]:
    """The preprocessing and the untrained network of a recipe."""
    prepare: Prepare
    if recipe.task == "liver":
        prepare = LiverInput(recipe.window_hu, recipe.size, equalise_first=recipe.equalise_first)
    elif recipe.equalise_first:
        prepare = PaperLesionInput(recipe.window_hu, recipe.size)
    else:
        prepare = LesionInput(recipe.window_hu, recipe.size)
    network = MixedUNet(
        prepare.channels, recipe.width,
        pooling=recipe.pooling, normalisation=recipe.normalisation, dropout=recipe.dropout,
    )  # fmt: skip
    return prepare, network


def optimiser_of(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, which without weight decay is Adam."""
    return torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


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


def seed_at(step: int, recipe: Recipe, rank: int) -> int:
    """The seed of a step in one of the processes that train together."""
    return recipe.seed * 1_000_003 + step + 1 + rank * 10**12


def launched(recipe: Recipe, hardware: Hardware) -> Fabric:
    """Fabric with all its processes running. Raises ValueError if the batch cannot be shared evenly."""
    if recipe.batch % hardware.devices:
        raise ValueError(f"a batch of {recipe.batch} cannot be shared by {hardware.devices} devices")
    fabric = Fabric(
        accelerator=hardware.accelerator,
        strategy=hardware.strategy,
        devices=hardware.devices,
        precision=recipe.precision,
    )
    fabric.launch()
    return fabric


def mean_over_devices(fabric: Fabric, loss: Tensor) -> float:
    """The loss of the whole batch."""
    mean = fabric.all_reduce(loss.detach())
    assert isinstance(mean, Tensor)
    return float(mean)


def judged(recipe: Recipe, average: dict[str, Tensor]) -> MixedUNet:
    """A network of its own with the averaged weights, to be scored."""
    _, network = build(recipe)
    network.load_state_dict(average)
    return network.eval()


def fit(
    recipe: Recipe,
    pack: Pack,
    folder: Path,
    watch: Watch | None = None,
    hardware: Hardware = ONE_DEVICE,
    *,
    allow_changes: bool = False,
) -> Path:
    """Train until the recipe's last step and return the checkpoint; goes on from `folder/last.ckpt` if there is one.

    Writes the curves beside it. Raises RunChanged if the checkpoint is of another recipe, other data or another number
    of devices, unless that is allowed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fabric = launched(recipe, hardware)
    torch.manual_seed(recipe.seed)
    prepare, bare = build(recipe)
    network, optimiser = fabric.setup(channels_last(bare), optimiser_of(recipe, bare))
    run = Run(network, optimiser, {name: value.clone() for name, value in network.state_dict().items()})
    checkpoint.resume(fabric, run, folder, Origin.of(recipe, pack, hardware.devices), allow_changes)
    share, chances = replace(recipe, batch=recipe.batch // fabric.world_size), slice_chances(pack, recipe)
    losses: list[float] = []
    with curves.Curves(folder, run.curve, visible=fabric.is_global_zero) as drawing:
        for step in drawing.steps(run.step, recipe.steps):
            torch.manual_seed(seed_at(step, recipe, fabric.global_rank))
            network.train()
            batch = {name: fabric.to_device(value) for name, value in drawn(pack, chances, share).items()}
            loss = loss_of(batch, prepare, network, recipe)
            optimiser.param_groups[0]["lr"] = rate_at(step, recipe)
            optimiser.zero_grad()
            fabric.backward(loss)
            optimiser.step()
            average_into(run.average, network, min(recipe.average_decay, (1 + step) / (10 + step)))
            losses.append(mean_over_devices(fabric, loss))
            run.step = step + 1
            if run.step % recipe.checkpoint_steps == 0 or run.step == recipe.steps:
                dice = watch(run.step, judged(recipe, run.average)) if watch and fabric.is_global_zero else None
                drawing.add(run.step, losses, rate_at(step, recipe), dice)
                checkpoint.save(fabric, run, folder)
                losses.clear()
    return folder / checkpoint.NAME
