"""Recipes: every number of a training in one frozen object. The command line only names one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from training.augmentation import NOTHING, PAPER, Augmentation
from training.networks import Normalisation, Pooling

Task = Literal["liver", "lesion"]
Loss = Literal["cross entropy", "dice + cross entropy"]


@dataclass(frozen=True)
class Recipe:
    """How a network is fed, built and fitted.

    `shares` says how much of a batch comes from each source; within a source every patient weighs the same.
    `unlabelled_weight`: how much a pixel counts where lesions may hide unlabelled and none was painted.
    `lesion_weight`: how much more a lesion's pixel counts; for the liver network all alike, for the lesion network up
    to that much, the smaller the lesion the more (Shirokikh et al. 2020, here by the root of the area).
    `rim_weight`: how much more a pixel counts for the liver network where muscle, diaphragm and gall bladder lie
    against the liver; with dark lesions counting four times, it would rather take them than leave a lesion out.
    `step_mm`: how far apart along the scan the slices may lie that the service looks at (`app.inference.between`);
    0: it looks at every one.
    `refine`: whether the CRF may refine what this network says; it is exported leaving out the label otherwise.
    """

    name: str
    task: Task
    window_hu: tuple[float, float] = (0.0, 240.0)
    size: int = 192
    equalise_first: bool = False
    width: int = 16
    pooling: Pooling = "mixed"
    normalisation: Normalisation = "batch"
    dropout: float = 0.1
    loss: Loss = "dice + cross entropy"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    cosine: bool = True
    average_decay: float = 0.995
    batch: int = 16
    steps: int = 1800
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    augmentation: Augmentation = field(default_factory=Augmentation)
    shares: tuple[tuple[str, float], ...] = (
        ("spread", 0.45),
        ("lits", 0.17),
        ("negative", 0.28),
        ("phantom", 0.1),
        ("pairs", 0.6),
    )
    unlabelled_weight: float = 0.1
    lesion_weight: float = 4.0
    rim_weight: float = 1.0
    roi_margin_mm: float = 10.0
    step_mm: float = 0.0
    refine: bool = True
    folds: int = 10
    seed: int = 0
    checkpoint_steps: int = 100


def default(task: Task = "liver") -> Recipe:
    """What is shipped. The window is what all sources share, so that their clipping cannot be learnt."""
    if task == "liver":
        return Recipe(
            "default", "liver", steps=4700, rim_weight=3.0, step_mm=3.0, augmentation=Augmentation(lesions=0.45)
        )
    return Recipe(
        "default", "lesion", window_hu=(-50.0, 240.0), batch=8, steps=14300, step_mm=1.5,
        augmentation=Augmentation(
            rotation_deg=25.0, scale=(0.75, 1.3), shift=0.06, mirror=True, liver_offset_hu=10.0,
            fatty=0.0, unenhanced=0.1, shading_hu=12.0, noise_hu=25.0, field_of_view=0.0, arms=0.0, lesions=0.5,
            clefts=0.4,
        ),
        shares=(("spread", 0.3), ("lits", 0.6), ("phantom", 0.1), ("pairs", 0.6)),
    )  # fmt: skip


def paper(task: Task = "liver") -> Recipe:
    """The preprint row by row: 96x96, cross entropy, Adam 1e-5, batch 32, 20 epochs of its images, dropout 0.5."""
    images = 30_600 if task == "liver" else 35_550
    labelled = (("lits", 1.0), ("pairs", 1.0))
    return Recipe(
        "paper", task, window_hu=(-100.0, 300.0), size=96, equalise_first=True, width=64, normalisation="none",
        dropout=0.5, loss="cross entropy", learning_rate=1e-5, weight_decay=0.0, cosine=False, average_decay=0.0,
        batch=32, steps=20 * images // 32, precision="32-true", augmentation=PAPER, lesion_weight=1.0,
        shares=labelled if task == "lesion" else (*labelled, ("spread", 1.0)),
    )  # fmt: skip


def smoke(task: Task = "liver") -> Recipe:
    """Overfits one phantom within a minute; bit for bit the same loss on every run."""
    return Recipe(
        "smoke", task, size=64, width=8, dropout=0.0, batch=4, steps=100, learning_rate=5e-3, average_decay=0.0,
        precision="32-true", augmentation=replace(NOTHING), shares=(("phantom", 1.0),), checkpoint_steps=20,
        lesion_weight=1.0,
    )  # fmt: skip


RECIPES: dict[str, Callable[[Task], Recipe]] = {"default": default, "paper": paper, "smoke": smoke}
