"""Scores of a PyTorch network on prepared slices, for curves and cross-validation.

What is shipped is scored by evaluate.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from app.imaging.region import touching_components
from training.loop import Watch, build
from training.networks import MixedUNet, channels_last
from training.packs import Pack
from training.preprocessing import resized
from training.recipes import Recipe

BATCH = 16
#: What `best_threshold` tries, and `best_thresholds` besides for the peak.
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PEAKS = (*THRESHOLDS, 0.92, 0.94, 0.96, 0.98)
#: Of a slice: its patient, pixels shared, pixels found, pixels true.
Overlap = tuple[str, int, int, int]


def shown(hounsfield_BPHW: Tensor, liver_BHW: Tensor, recipe: Recipe) -> Tensor:
    """What the network sees of slices of a pack, float32 (B, C, h, w)."""
    prepare, _ = build(recipe)
    image: Tensor = prepare(hounsfield_BPHW, liver_BHW) if recipe.task == "lesion" else prepare(hounsfield_BPHW[:, 0])
    return image


def typical(pack: Pack, recipe: Recipe, count: int) -> Tensor:
    """What the network sees of `count` slices spread over the patients, (B, C, h, w); phantoms only without others."""
    draw = np.random.default_rng(0)
    places: dict[str, list[int]] = {}
    real = [n for n, entry in enumerate(pack.entries) if entry.source != "phantom"]
    for n in real or range(len(pack.entries)):
        places.setdefault(pack.entries[n].patient, []).append(n)
    of_patients = [draw.permutation(places[patient]) for patient in sorted(places)]
    rounds = [of[turn] for turn in range(max(map(len, of_patients))) for of in of_patients if turn < len(of)]
    at = np.sort(rounds[:count])
    liver = torch.from_numpy(pack.labels[at] >= 1)
    return shown(torch.from_numpy(pack.hounsfield[at].astype(np.float32)), liver, recipe)


def probabilities(network: MixedUNet, hounsfield_BPHW: Tensor, liver_BHW: Tensor, recipe: Recipe) -> Tensor:
    """Probability on the pack's grid, float32 (B, H, W); of a lesion, zero outside the liver."""
    image = shown(hounsfield_BPHW, liver_BHW, recipe)
    size = (liver_BHW.shape[1], liver_BHW.shape[2])
    autocast = torch.autocast(hounsfield_BPHW.device.type, torch.bfloat16, enabled=recipe.precision == "bf16-mixed")
    with torch.no_grad(), autocast:
        logit = network(image.contiguous(memory_format=torch.channels_last)).to(torch.float32)
    probability = resized(logit, size)[:, 0].sigmoid()
    return probability * liver_BHW if recipe.task == "lesion" else probability


def overlaps_at(
    network: MixedUNet, pack: Pack, recipe: Recipe, thresholds: tuple[float, ...]
) -> dict[float, list[Overlap]]:
    """For each threshold, per slice: its patient, pixels shared, pixels found, pixels true."""
    truth_from = 1 if recipe.task == "liver" else 2
    network = channels_last(network).eval()
    rows: dict[float, list[Overlap]] = {threshold: [] for threshold in thresholds}
    for start in range(0, len(pack.entries), BATCH):
        part = slice(start, start + BATCH)
        labels = torch.from_numpy(pack.labels[part])
        hounsfield = torch.from_numpy(pack.hounsfield[part].astype(np.float32))
        probability = probabilities(network, hounsfield, labels >= 1, recipe)
        true = labels >= truth_from
        for threshold in thresholds:
            found = probability >= threshold
            for entry, mask, reference in zip(pack.entries[part], found, true, strict=True):
                shared = int((mask & reference).sum())
                rows[threshold].append((entry.patient, shared, int(mask.sum()), int(reference.sum())))
    return rows


def overlaps(network: MixedUNet, pack: Pack, recipe: Recipe, threshold: float = 0.5) -> list[Overlap]:
    """The same for one threshold."""
    return overlaps_at(network, pack, recipe, (threshold,))[threshold]


def best_threshold(network: MixedUNet, pack: Pack, recipe: Recipe) -> float:
    """The threshold with the best mean Dice per patient; to be asked with patients that were trained on."""
    means = {
        threshold: float(np.mean(list(dice_per_patient(rows).values())))
        for threshold, rows in overlaps_at(network, pack, recipe, THRESHOLDS).items()
    }
    return max(means, key=lambda threshold: means[threshold])


def best_thresholds(network: MixedUNet, pack: Pack, recipe: Recipe) -> tuple[float, float]:
    """Threshold and peak threshold of lesions with the best mean Dice per patient, marks told apart in whole scans."""
    rows: dict[tuple[float, float], list[Overlap]] = {}
    for patient, probability, true in _scans(network, pack, recipe):
        for threshold in THRESHOLDS:
            marks = touching_components(probability >= threshold)
            size, shared = np.bincount(marks.ravel()), np.bincount(marks[true], minlength=int(marks.max()) + 1)
            highest = ndimage.maximum(probability, marks, np.arange(len(size)))
            for peak in (peak for peak in PEAKS if peak >= threshold):
                kept = np.flatnonzero(highest[1:] >= peak) + 1
                overlap = (patient, int(shared[kept].sum()), int(size[kept].sum()), int(true.sum()))
                rows.setdefault((threshold, peak), []).append(overlap)
    means = {both: float(np.mean(list(dice_per_patient(of).values()))) for both, of in rows.items()}
    return max(means, key=lambda both: means[both])


def _scans(
    network: MixedUNet, pack: Pack, recipe: Recipe
) -> Iterator[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Of each case its patient, and its slices: the probability of lesion and where there is one, (K, H, W)."""
    network = channels_last(network).eval()
    for case in dict.fromkeys(entry.case for entry in pack.entries):
        own = pack.chosen([entry.case == case for entry in pack.entries])
        labels = torch.from_numpy(own.labels[:])
        parts = [
            probabilities(
                network, torch.from_numpy(own.hounsfield[at : at + BATCH].astype(np.float32)),
                labels[at : at + BATCH] >= 1, recipe,
            )
            for at in range(0, len(own.entries), BATCH)
        ]  # fmt: skip
        yield own.entries[0].patient, torch.cat(parts).numpy(), (labels == 2).numpy()


def dice_per_patient(rows: list[Overlap]) -> dict[str, float]:
    """Dice over all slices of each patient who has any of what is looked for."""
    sums: dict[str, list[int]] = {}
    for patient, shared, found, true in rows:
        total = sums.setdefault(patient, [0, 0, 0])
        total[0] += shared
        total[1] += found
        total[2] += true
    return {patient: 2 * s / (f + t) for patient, (s, f, t) in sums.items() if t > 0}


def watcher(pack: Pack, recipe: Recipe, count: int) -> Watch:
    """Mean Dice per patient at threshold 0.5 on `count` slices spread over the pack, for the curve of a training."""
    at = np.linspace(0, len(pack.entries) - 1, min(count, len(pack.entries))).round().astype(int).tolist()
    few = pack.chosen([n in at for n in range(len(pack.entries))])

    def watch(_step: int, network: nn.Module) -> float | None:
        assert isinstance(network, MixedUNet)
        scores = dice_per_patient(overlaps(network, few, recipe))
        return float(np.mean(list(scores.values()))) if scores else None

    return watch


def empty_slices_left_empty(rows: list[Overlap]) -> float:
    """Of the slices without what is looked for, the fraction where nothing was found; nan if there are none."""
    empty = [found == 0 for _, _, found, true in rows if true == 0]
    return float(np.mean(empty)) if empty else float("nan")
