"""What the CRF is worth, for models/README.md: Dice with and without it, by stage and patient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.inference.network import CrfParameters, ModelCard
from training.markdown import table

LABELS = ("liver", "lesion")


def refinement_part(volumes: dict[str, Any], card: ModelCard) -> list[str]:
    """Its table, also for a label that is not refined; which labels are, and how the kernels came to be."""
    parameters = CrfParameters.model_validate(card.parameters)
    rows = list(_rows(volumes, parameters))
    parts = [_kernels(card, parameters)]
    if rows:
        header = ["label", "patient kept out", "Dice without", "with", "refined in the service"]
        told = "Of each network's own answer at its threshold, lesions inside the liver as it is unrefined:"
        parts += [told, table(header, rows)]
    return [*parts, *(_left_alone(label, volumes) for label in LABELS if label not in parameters.refines)]


def _rows(volumes: dict[str, Any], parameters: CrfParameters) -> Iterator[list[str]]:
    for label in LABELS:
        refined = "yes" if label in parameters.refines else "no"
        for name, scores in volumes.items():
            if scores.get("crf"):
                dice = scores["crf"][label]
                yield [label, name, f"{dice['without']:.4f}", f"{dice['with']:.4f}", refined]


def _left_alone(label: str, volumes: dict[str, Any]) -> str:
    gains = [s["crf"][label]["with"] - s["crf"][label]["without"] for s in volumes.values() if s.get("crf")]
    why = f": it would change its Dice by {sum(gains) / len(gains):+.4f} on average" if gains else ""
    return f"The {label} is **left unrefined**{why}."


def _kernels(card: ModelCard, parameters: CrfParameters) -> str:
    how = "fitted on training patients" if "tried" in card.metrics else "as designed, not fitted"
    return (
        f"{card.name} {card.version}, kernels {how}: appearance weight {parameters.appearance_weight:g}, "
        f"{parameters.appearance_mm:g} mm, {parameters.appearance_hu:g} HU; smoothness weight "
        f"{parameters.smoothness_weight:g}, {parameters.smoothness_mm:g} mm; {parameters.iterations} iterations."
    )
