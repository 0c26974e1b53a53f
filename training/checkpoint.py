"""The state of a training on disk: written whole or not at all, and gone on from only by the same training."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from training.curves import Point
from training.provenance import Origin

NAME = "last.ckpt"


class RunChanged(RuntimeError):
    """A checkpoint was made with another recipe or other data: going on would give weights that nobody can repeat."""


@dataclass
class Run:
    """All that the next step depends on, the curve so far, and what it was made with."""

    network: Any
    optimiser: Any
    average: dict[str, Tensor]
    step: int = 0
    curve: list[Point] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """What is stored; plain values and tensors beside the two objects that Fabric unpacks."""
        plain = {"curve": [list(point) for point in self.curve], "origins": [asdict(o) for o in self.origins]}
        return {
            "network": self.network,
            "optimiser": self.optimiser,
            "average": self.average,
            "step": self.step,
        } | plain


def save(fabric: Fabric, run: Run, folder: Path) -> None:
    """Write the checkpoint beside the last one and rename it: a kill leaves the old one or the new one."""
    beside = folder / "next.ckpt"
    fabric.save(beside, run.state())
    if fabric.is_global_zero:
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(folder / NAME)
    fabric.barrier()


def resume(fabric: Fabric, run: Run, folder: Path, origin: Origin, allow_changes: bool) -> None:
    """Take over what the folder holds, if it holds a checkpoint of this very training."""
    path = folder / NAME
    if path.exists():
        _, run.origins = summary(path)
        changes = origin.changes(run.origins[-1]) if run.origins else []
        if changes and not allow_changes:
            raise RunChanged(
                f"{path} was made otherwise: {'; '.join(changes[:6])}. Choose another --runs folder, remove this one, "
                "or go on with --allow-changes: the card will say so."
            )
        state = run.state()
        fabric.load(path, state, strict=False)
        run.average, run.step = state["average"], state["step"]
        run.curve = [Point(*point) for point in state["curve"]]
    if not run.origins or origin.changes(run.origins[-1]):
        run.origins.append(replace(origin, from_step=run.step))


def summary(path: Path) -> tuple[int, list[Origin]]:
    """Steps done and what they were made with, of a checkpoint file."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state["step"], [Origin(**stored) for stored in state.get("origins", [])]
