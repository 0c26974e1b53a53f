"""Fits the CRF's kernels on training patients, and scores them on patients kept out.

What is refined is what the shipped networks say about the region that the service looks at, so the kernels fit these
networks: new networks need a new search. The search goes along one parameter after the other, a few values each.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from app.errors import NoLiver
from app.imaging.region import bounding_box, largest_component
from app.inference.cascade import marked
from app.inference.crf import refine
from app.inference.manifest import Networks, load_networks
from app.inference.network import Hounsfield, Network, Probability, Runtime
from training import crf
from training.datasets import Case, Pair, listed
from training.split import ALWAYS_KEPT_OUT, ALWAYS_TRAINED, DataError, patient_number

Stage = Literal["liver", "lesion"]
STAGES: tuple[Stage, ...] = ("liver", "lesion")
#: What is tried for each parameter in turn, the rest as it is. Weights of more than 5 together would leave hardly a
#: voxel certain, and the CRF slow: 8 gained 0.0004 more.
TRIED: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("appearance_weight", (0.5, 1.0, 4.0)),
    ("appearance_mm", (3.0, 8.0, 12.0)),
    ("appearance_hu", (10.0, 40.0)),
    ("smoothness_weight", (0.0, 0.5, 2.0)),
    ("smoothness_mm", (1.0, 4.0)),
)
#: Less Dice than this is chance, and may cost much: a last 0.0001 took a smoothness kernel of blocks of one voxel.
WORTH_A_CHANGE = 0.0002
#: The search looks at so many slices of a scan, those with most lesion in them; scoring at all.
SLICES = 40


@dataclass(frozen=True, eq=False)
class Region:
    """What the cascade sees of a case before the CRF, and the truth (K, J, I)."""

    name: str
    hounsfield: Hounsfield
    probability: dict[Stage, Probability]
    labels: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]


def regions(data: Path, numbers: frozenset[int], networks: Networks, slices: int | None) -> Iterator[Region]:
    """The LiTS patients of these numbers; of each so many slices, or all. Raises DataError where there are none."""
    pairs = [item for item in listed(data) if isinstance(item, Pair) and item.source == "lits"]
    chosen = [pair for pair in pairs if patient_number(pair.patient) in numbers]
    if not chosen:
        raise DataError(f"none of the LiTS volumes {sorted(numbers)} lies under {data}: the CRF is fitted on them")
    for pair in chosen:
        yield from (_region(case, networks, slices) for case in pair.read())


def _region(case: Case, networks: Networks, slices: int | None) -> Region:
    liver = networks.liver.run(case.hounsfield_kji)
    mask = largest_component(liver >= _threshold(networks.liver))
    if not mask.any():
        raise NoLiver("the liver network finds no liver.")
    margin_mm = networks.lesion.card.roi_margin_mm
    assert margin_mm is not None
    box = bounding_box(mask, case.spacing_kji_mm, margin_mm).slices
    if slices:
        lesion_area = (case.labels_kji[box[0]] == 2).sum(axis=(1, 2)).astype(float)
        window = np.convolve(lesion_area, np.ones(min(slices, len(lesion_area))), "valid")
        first = box[0].start + int(window.argmax())
        box = (slice(first, min(first + slices, box[0].stop)), *box[1:])
    lesion = networks.lesion.run(case.hounsfield_kji[box], mask[box], case.spacing_kji_mm[0])
    probability: dict[Stage, Probability] = {"liver": liver[box].copy(), "lesion": lesion}
    hounsfield, labels = case.hounsfield_kji[box].copy(), case.labels_kji[box].copy()
    return Region(case.name, hounsfield, probability, labels, case.spacing_kji_mm)


def _threshold(network: Network) -> float:
    assert network.card.threshold is not None
    return network.card.threshold


def dice_of(region: Region, stage: Stage, network: Network | None, networks: Networks) -> float:
    """Of one label with (or, without a network, before) refinement; lesions inside the liver as it is unrefined."""
    probability = region.probability[stage]
    if network is not None:
        probability = refine(probability, region.hounsfield, region.spacing_mm, network)
    if stage == "liver":
        found = probability >= _threshold(networks.liver)
    else:
        found = marked(probability, region.probability["liver"] >= _threshold(networks.liver), networks.lesion.card)
    true = region.labels >= (1 if stage == "liver" else 2)
    total = int(found.sum()) + int(true.sum())
    return 2 * int((found & true).sum()) / total if total else 1.0


def with_and_without(case: Case, networks: Networks) -> dict[Stage, dict[str, float]]:
    """Dice of each label of a whole scan with the folder's CRF and without, also where that label is not refined.

    Empty where no liver is found.
    """
    try:
        region = _region(case, networks, None)
    except NoLiver:
        return {}
    return {
        stage: {
            "without": dice_of(region, stage, None, networks),
            "with": dice_of(region, stage, networks.crf, networks),
        }
        for stage in STAGES
    }


def gains(parameters: crf.Parameters, cases: Iterable[Region], networks: Networks) -> dict[Stage, list[float]]:
    """How much each case's Dice grows, by stage."""
    graph = crf.build(parameters).SerializeToString(deterministic=True)
    network = Network(graph, hashlib.sha256(graph).hexdigest(), "crf", "crf", networks.crf.runtime)
    return {
        stage: [dice_of(case, stage, network, networks) - dice_of(case, stage, None, networks) for case in cases]
        for stage in STAGES
    }


def fit(models_dir: Path, data: Path, threads: int = 0) -> tuple[crf.Parameters, dict[str, Any]]:
    """The parameters that suit the training patients best, with what kept-out patients gain by them (a card's metrics).

    Labels that kept-out patients gain nothing for are left out of `refines`.
    """
    networks = load_networks(models_dir, Runtime(threads=threads))
    training = list(regions(data, ALWAYS_TRAINED, networks, SLICES))
    best, tried = crf.DEFAULT, {}
    worth = tried[_told(best)] = _worth(gains(best, training, networks))
    for name, values in TRIED:
        start = best
        for value in values:
            candidate = start.model_copy(update={name: value})
            found = tried[_told(candidate)] = _worth(gains(candidate, training, networks))
            sys.stdout.write(f"{_told(candidate)}: {found}\n")
            sys.stdout.flush()
            if _score(found) >= _score(worth) + WORTH_A_CHANGE:
                best, worth = candidate, found
    scores = scored(best, list(regions(data, ALWAYS_KEPT_OUT, networks, None)), networks)
    refines = tuple(stage for stage in STAGES if scores[stage]["gain"] > 0)
    metrics = {"gain_on_training_patients": worth, "tried": tried, "kept_out_dice": scores}
    return best.model_copy(update={"refines": refines}), metrics


def scored(parameters: crf.Parameters, cases: list[Region], networks: Networks) -> dict[str, dict[str, Any]]:
    """Dice with and without the CRF, by stage and case, and the mean gain."""
    grown = gains(parameters, cases, networks)
    result: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        without = [dice_of(case, stage, None, networks) for case in cases]
        pairs = {
            case.name: {"without": round(before, 4), "with": round(before + gain, 4)}
            for case, before, gain in zip(cases, without, grown[stage], strict=True)
        }
        result[stage] = {"gain": round(float(np.mean(grown[stage])), 4), "volumes": pairs}
    return result


def _worth(grown: dict[Stage, list[float]]) -> dict[str, float]:
    return {stage: round(float(np.mean(values)), 4) for stage, values in grown.items()}


def _score(worth: dict[str, float]) -> float:
    # a label that loses is left out
    return sum(max(gain, 0.0) for gain in worth.values())


def _told(parameters: crf.Parameters) -> str:
    names = [name for name, _ in TRIED]
    return ", ".join(f"{name} {getattr(parameters, name):g}" for name in names)
