"""What the cascade of one folder of networks is worth: case after case in, a plain dictionary of scores out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from app.agreement import compare
from app.errors import HepasegError
from app.imaging.volume import Geometry, Segmentation, Volume
from app.inference.cascade import Cascade
from app.inference.manifest import Networks, load_networks
from app.inference.network import ModelCard, Runtime
from training.crf_fit import with_and_without
from training.datasets import Case
from training.painted import FOUND_FRACTION, Painted, PaintedScore
from training.provenance import fingerprint
from training.split import DataError, possible_groups

Mask = npt.NDArray[np.bool_]
Results = dict[str, Any]


@dataclass
class Overlap:
    """Voxels shared, found and true, of as many cases as were added."""

    shared: int = 0
    found: int = 0
    true: int = 0

    def add(self, found: Mask, true: Mask) -> float:
        """Count a case; its own Dice."""
        one = Overlap(int((found & true).sum()), int(found.sum()), int(true.sum()))
        self.shared, self.found, self.true = self.shared + one.shared, self.found + one.found, self.true + one.true
        return one.dice()

    def dice(self) -> float:
        """2|X∩Y| / (|X|+|Y|); 1 where both are empty."""
        total = self.found + self.true
        return 2 * self.shared / total if total else 1.0


def as_volume(case: Case) -> Volume:
    """The case as the service would read it."""
    k, j, i = case.spacing_kji_mm
    return Volume(case.hounsfield_kji.T, Geometry(case.labels_kji.T.shape, np.diag([-i, -j, k, 1.0])))


def lesions_found(found: Mask, true: Mask) -> Results:
    """How many lesions there are, how many of them were found, and how many marks lie on no lesion."""
    true_ids, true_count = cc3d.connected_components(true, connectivity=26, return_N=True)
    found_ids, found_count = cc3d.connected_components(found, connectivity=26, return_N=True)
    hit = sum(bool(found[true_ids == n].mean() >= FOUND_FRACTION) for n in range(1, true_count + 1))
    false = found_count - len(set(np.unique(found_ids[true])) - {0})
    return {"lesions": int(true_count), "lesions_found": int(hit), "false_marks": int(false)}


def summary(scores: dict[str, float]) -> Results | None:
    """Mean with its 95 % bootstrap interval, median and worst; None without cases."""
    if not scores:
        return None
    values = np.array(list(scores.values()))
    means = np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    worst = min(scores, key=lambda name: scores[name])
    return {
        "cases": len(values), "mean": float(values.mean()), "interval": [float(low), float(high)],
        "median": float(np.median(values)), "worst": float(values.min()), "worst_case": worst,
    }  # fmt: skip


def stated(number: float | None) -> float:
    """A number that the card of a checked network has."""
    assert number is not None
    return number


def training_of(card: ModelCard) -> dict[str, Any]:
    """What a file says about its training; empty for files older than that."""
    found: dict[str, Any] = json.loads((card.model_extra or {}).get("training") or "{}")
    return found


@dataclass
class Judge:
    """Networks of a folder and their scores so far. Names in the results are given by the caller, who may hide them."""

    networks: Networks
    plain: Cascade
    volumes: dict[str, Results] = field(default_factory=dict)
    patients: dict[str, Overlap] = field(default_factory=dict)
    patients_network_alone: dict[str, Overlap] = field(default_factory=dict)
    empty: dict[str, list[int]] = field(default_factory=dict)
    phantoms: dict[str, Results] = field(default_factory=dict)
    painted: PaintedScore = field(default_factory=PaintedScore)
    liver: Overlap = field(default_factory=Overlap)
    lesion: Overlap = field(default_factory=Overlap)

    @classmethod
    def of(cls, models_dir: Path) -> Judge:
        """Load the networks; raises BrokenModel."""
        without_crf = Runtime(crf_backend="none")
        return cls(load_networks(models_dir, Runtime()), Cascade(load_networks(models_dir, without_crf), without_crf))

    def known_to(self, case: Case) -> str | None:
        """Which network was trained on this patient, or may have been: a slice without liver may be of two."""
        if case.source == "phantom":
            return None
        groups = possible_groups(case.patient) if case.source == "negative" else {case.patient}
        for network in (self.networks.liver, self.networks.lesion):
            known = training_of(network.card).get("data", {}).get("known_patients", [])
            if any(fingerprint(group) in known for group in groups):
                return network.name
        return None

    def refuse_known(self, case: Case) -> None:
        """Raise DataError if a network was trained on this patient: such a score would be worth nothing."""
        name = self.known_to(case)
        if name is not None:
            raise DataError(f"{case.name}: {name} was trained on this patient; prepare and train again")

    def segment(self, volume: Volume, *, crf: bool = True) -> Segmentation | None:
        """The service's answer; None where it refuses."""
        cascade = Cascade(self.networks, self.networks.liver.runtime) if crf else self.plain
        try:
            return cascade.segment(volume, lambda _stage, _fraction: None)
        except HepasegError:
            return None

    def whole(self, name: str, case: Case) -> Segmentation:
        """Score a whole volume: Dice and distances of the liver, lesions included; lesions by voxel and one by one."""
        segmentation = self._answer(case)
        scores = self._scored(segmentation, case)
        reference = case.labels_kji.T
        scores["liver_without_crf"] = self._dice_without_crf(case)
        scores["crf"] = with_and_without(case, self.networks)
        agreement = compare(segmentation.liver, reference >= 1, segmentation.geometry)
        scores["liver_agreement"] = agreement.model_dump(exclude={"dice"})
        self.volumes[name] = scores
        self.liver.add(segmentation.liver, reference >= 1)
        if "lesion" in scores:
            self.lesion.add(segmentation.lesions, reference == 2)
        self._count_empty(f"{name}, above and below the liver", segmentation.liver.T, reference.T >= 1)
        return segmentation

    def slices(self, name: str, case: Case) -> Segmentation:
        """Score slices with liver that are no whole volume, by the cascade and by the liver network alone."""
        segmentation = self._answer(case)
        liver, true = segmentation.liver.T, case.labels_kji >= 1
        self.patients.setdefault(name, Overlap()).add(liver, true)
        self.liver.add(liver, true)
        self.patients_network_alone.setdefault(name, Overlap()).add(self._liver_network(case), true)
        return segmentation

    def negative(self, case: Case) -> None:
        """Count the slices without liver that the liver network leaves empty, one by one."""
        self._count_empty(case.name.split("/")[0], self._liver_network(case), case.labels_kji >= 1)

    def phantom(self, case: Case) -> None:
        """Score a phantom."""
        self.phantoms[case.name] = self._scored(self._answer(case), case)

    def paint(self, painted: Painted) -> None:
        """Count what is found of painted lesions; nothing where the liver is not found."""
        segmentation = self.segment(painted.volume)
        found = np.zeros_like(painted.true) if segmentation is None else segmentation.lesions.T[1]
        self.painted.add(painted, found)

    def results(self) -> Results:
        """All scores, ready for JSON."""
        patients = {name: overlap.dice() for name, overlap in sorted(self.patients.items())}
        alone = {name: overlap.dice() for name, overlap in sorted(self.patients_network_alone.items())}
        lesion = {name: scores["lesion"] for name, scores in self.volumes.items() if "lesion" in scores}
        return {
            "networks": {n.card.task: f"{n.card.name} {n.card.version}" for n in self.networks},
            "volumes": self.volumes,
            "liver_patients": patients, "liver_patients_network_alone": alone,
            "slices_without_liver": self.empty, "phantoms": self.phantoms, "painted": self.painted.result(),
            "liver_summary": summary(patients | {name: scores["liver"] for name, scores in self.volumes.items()}),
            "lesion_summary": summary(lesion),
            "liver_dice_of_all_voxels": self.liver.dice() if self.liver.true else None,
            "lesion_dice_of_all_voxels": self.lesion.dice() if self.lesion.true else None,
        }  # fmt: skip

    def _answer(self, case: Case) -> Segmentation:
        volume = as_volume(case)
        nothing = Segmentation(np.zeros(volume.geometry.shape, np.uint8), volume.geometry)
        return self.segment(volume) or nothing

    def _scored(self, segmentation: Segmentation, case: Case) -> Results:
        reference = case.labels_kji.T
        scores: Results = {"liver": Overlap().add(segmentation.liver, reference >= 1)}
        if (reference == 2).any():
            scores["lesion"] = Overlap().add(segmentation.lesions, reference == 2)
            scores |= lesions_found(segmentation.lesions, reference == 2)
        return scores

    def _dice_without_crf(self, case: Case) -> float:
        answer = self.segment(as_volume(case), crf=False)
        return Overlap().add(answer.liver, case.labels_kji.T >= 1) if answer else 0.0

    def _liver_network(self, case: Case) -> Mask:
        liver = self.networks.liver
        mask: Mask = liver.run(case.hounsfield_kji) >= stated(liver.card.threshold)
        return mask

    def _count_empty(self, name: str, found_kji: Mask, true_kji: Mask) -> None:
        without = ~true_kji.any(axis=(1, 2))
        if without.any():
            count = self.empty.setdefault(name, [0, 0])
            count[0] += int((~found_kji[without].any(axis=(1, 2))).sum())
            count[1] += int(without.sum())
