"""Scores of the EXPORTED files through the service's own code, on patients that no training saw.

What is scored is what is shipped: `app.inference` runs the graphs, thresholds come from their cards, the cascade is the
service's. The result is a plain dictionary, written to models/evaluation.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
import torch

from app.errors import HepasegError
from app.imaging.region import bounding_box
from app.imaging.volume import Geometry, Volume
from app.inference.cascade import Cascade
from app.inference.manifest import Networks, load_networks
from app.inference.network import Network, Runtime
from training.datasets import Case, discover, is_kept_out, kept_out_groups, patient_group, phantoms
from training.manifest import write_atomically
from training.preprocessing import PLANES_MM
from training.synthesis import Where, paint_lesions

Mask = npt.NDArray[np.bool_]
Results = dict[str, Any]
#: Seeds of the phantoms that are scored on; training uses others.
SCORED_PHANTOMS = (1, 2, 3)
#: Upper ends of the size classes of synthetic lesions, mm.
SIZE_CLASSES_MM = {"under 10 mm": 10.0, "10 to 20 mm": 20.0, "over 20 mm": float("inf")}
#: A lesion counts as found when at least this fraction of it is marked.
FOUND_FRACTION = 0.25


def dice(found: Mask, true: Mask) -> float:
    """2|X∩Y| / (|X|+|Y|); 1 where both are empty."""
    total = int(found.sum()) + int(true.sum())
    return 2 * int((found & true).sum()) / total if total else 1.0


def threshold_of(network: Network) -> float:
    """The threshold that a checked card states."""
    assert network.card.threshold is not None
    return network.card.threshold


def as_volume(case: Case) -> Volume:
    """The case as the service would read it."""
    k, j, i = case.spacing_kji_mm
    geometry = Geometry(case.labels_kji.T.shape, np.diag([-i, -j, k, 1.0]))
    return Volume(case.hounsfield_kji.T, geometry)


def kept_out_cases(data: Path) -> list[Case]:
    """The cases of patients that no training saw, negatives included."""
    cases = list(discover(data))
    kept_out = kept_out_groups(patient_group(case.patient) for case in cases)
    return [case for case in cases if is_kept_out(case.patient, case.source, kept_out)]


def score_volume(case: Case, cascade: Cascade) -> Results:
    """Dice of liver (with lesions) and of lesions, of a whole volume through the cascade."""
    reference = case.labels_kji.T
    try:
        segmentation = cascade.segment(as_volume(case), lambda _stage, _fraction: None)
    except HepasegError as error:
        return {"liver": 0.0, "lesion": 0.0, "error": error.__class__.__name__}
    scores: Results = {"liver": dice(segmentation.liver, reference >= 1)}
    if (reference == 2).any():
        scores["lesion"] = dice(segmentation.lesions, reference == 2)
        scores |= lesions_found(segmentation.lesions, reference == 2)
    return scores


def lesions_found(found: Mask, true: Mask) -> Results:
    """How many lesions there are, how many of them were found, and how many marks lie on no lesion."""
    true_ids, true_count = cc3d.connected_components(true, connectivity=26, return_N=True)
    found_ids, found_count = cc3d.connected_components(found, connectivity=26, return_N=True)
    hit = sum(bool(found[true_ids == n].mean() >= FOUND_FRACTION) for n in range(1, true_count + 1))
    false = found_count - len(set(np.unique(found_ids[true])) - {0})
    return {"lesions": int(true_count), "lesions_found": int(hit), "false_marks": int(false)}


def score_slices(cases: Iterable[Case], network: Network) -> tuple[dict[str, float], dict[str, list[int]]]:
    """Dice per patient over slices with liver; of slices without, per archive how many were left empty, of how many."""
    sums: dict[str, list[int]] = {}
    empty: dict[str, list[int]] = {}
    for case in cases:
        found = network.run(case.hounsfield_kji) >= threshold_of(network)
        true = case.labels_kji >= 1
        if case.source == "negative":
            count = empty.setdefault(case.name.split("/")[0], [0, 0])
            count[0] += int((~found.any(axis=(1, 2))).sum())
            count[1] += len(found)
            continue
        total = sums.setdefault(case.patient, [0, 0])
        total[0] += 2 * int((found & true).sum())
        total[1] += int(found.sum() + true.sum())
    return {patient: shared / total for patient, (shared, total) in sorted(sums.items())}, empty


@dataclass
class SizeClass:
    """Counts of one size class of synthetic lesions."""

    painted: int = 0
    found: int = 0


def score_painted(cases: Iterable[Case], lesion: Network) -> Results:
    """Synthetic lesions painted into kept-out real livers, slice by slice: recall by size, marks elsewhere.

    Lesions that were in the liver before and are not labelled count as marks elsewhere: precision is a lower bound.
    """
    torch.manual_seed(7)
    classes = {name: SizeClass() for name in SIZE_CLASSES_MM}
    scores: list[float] = []
    marks = on_lesion = 0
    assert lesion.card.roi_margin_mm is not None
    for case in cases:
        pixel_mm = case.spacing_kji_mm[1]
        where = Where(torch.tensor([pixel_mm]), torch.tensor([False]))
        for hounsfield, labels in zip(case.hounsfield_kji, case.labels_kji, strict=True):
            # the slice between copies of itself, as far away as the network's planes; each with its cut of the lesions
            planes = torch.tensor(np.stack([hounsfield] * len(PLANES_MM))[None], dtype=torch.float32)
            changed, new, _ = paint_lesions(planes, torch.tensor(labels[None]), where, 1.0)
            true = new.numpy() == 2
            if not true.any():
                continue
            stack = changed[0, list(np.argsort(PLANES_MM))].round().to(torch.int16).numpy()
            liver = np.stack([labels >= 1] * len(stack))
            box = bounding_box(liver, case.spacing_kji_mm, lesion.card.roi_margin_mm).slices[1:]
            found = np.zeros_like(true)
            of_stack = lesion.run(stack[:, *box], liver[:, *box], max(PLANES_MM))
            found[0][box] = of_stack[len(stack) // 2] >= threshold_of(lesion)
            scores.append(dice(found, true))
            _count_by_size(found[0], true[0], pixel_mm, classes)
            ids, count = cc3d.connected_components(found[0], connectivity=8, return_N=True)
            marks += int(count)
            on_lesion += len(set(np.unique(ids[true[0]])) - {0})
    recall = {name: {"painted": c.painted, "found": c.found} for name, c in classes.items()}
    return {
        "slice_dice_mean": float(np.mean(scores)),
        "by_size": recall,
        "marks": marks,
        "marks_on_lesion": on_lesion,
    }


def _count_by_size(found: Mask, true: Mask, pixel_mm: float, classes: dict[str, SizeClass]) -> None:
    ids, count = cc3d.connected_components(true, connectivity=8, return_N=True)
    for n in range(1, count + 1):
        lesion = ids == n
        diameter_mm = 2 * float(np.sqrt(lesion.sum() / np.pi)) * pixel_mm
        name = next(name for name, largest in SIZE_CLASSES_MM.items() if diameter_mm < largest)
        classes[name].painted += 1
        classes[name].found += int(found[lesion].mean() >= FOUND_FRACTION)


def summary(scores: dict[str, float]) -> Results:
    """Mean with its 95 % bootstrap interval, median and worst."""
    values = np.array(list(scores.values()))
    random = np.random.default_rng(0)
    means = random.choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    worst = min(scores, key=lambda name: scores[name])
    return {
        "cases": len(values), "mean": float(values.mean()), "interval": [float(low), float(high)],
        "median": float(np.median(values)), "worst": float(values.min()), "worst_case": worst,
    }  # fmt: skip


def evaluate(models_dir: Path, data: Path) -> Results:
    """All scores of the files that the manifest names; also written to `models_dir/evaluation.json`."""
    networks = load_networks(models_dir, Runtime())
    cases = kept_out_cases(data)
    whole = [case for case in cases if case.source in ("lits", "pairs")]
    slices = [case for case in cases if case.source in ("spread", "negative")]
    per_patient, empty = score_slices(slices, networks.liver)
    results: Results = {
        "networks": {
            n.card.task: f"{n.card.name} {n.card.version}" for n in (networks.liver, networks.lesion, networks.crf)
        },
        "kept_out_patients": sorted({case.patient for case in cases}),
        "liver_patients": per_patient,
        "slices_without_liver": empty,
        "volumes": _volumes(whole, networks),
        "volumes_without_crf": _volumes(whole, load_networks(models_dir, Runtime(crf_backend="none"))),
        "phantoms": _volumes(phantoms(SCORED_PHANTOMS), networks),
        "painted": score_painted([case for case in slices if case.source == "spread"], networks.lesion),
    }
    liver = per_patient | {name: scores["liver"] for name, scores in results["volumes"].items()}
    results["liver_summary"] = summary(liver)
    lesion = {name: scores["lesion"] for name, scores in results["volumes"].items() if "lesion" in scores}
    results["lesion_summary"] = summary(lesion) if lesion else None
    write_atomically(models_dir / "evaluation.json", (json.dumps(results, indent=1) + "\n").encode())
    return results


def _volumes(cases: Iterable[Case], networks: Networks) -> dict[str, Results]:
    cascade = Cascade(networks, networks.liver.runtime)
    return {case.name: score_volume(case, cascade) for case in cases}
