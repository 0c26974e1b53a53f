"""What a network comes from, counted and never typed: its recipe, its data, its steps.

It is kept in the checkpoint, goes into the card of the exported file, and becomes sentences in models/README.md.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from training.packs import Pack
from training.recipes import RECIPES, Recipe
from training.split import patient_group

#: How a source is called in a sentence.
SOURCES = {
    "lits": "whole LiTS volumes",
    "spread": "slices of other LiTS volumes",
    "negative": "slices without liver",
    "pairs": "own scans",
}


@dataclass(frozen=True)
class Origin:
    """What the steps from `from_step` on were made with; both dictionaries hold what JSON can hold."""

    recipe: dict[str, Any]
    data: dict[str, Any]
    devices: int
    from_step: int = 0

    @classmethod
    def of(cls, recipe: Recipe, pack: Pack, devices: int) -> Origin:
        """That of a run which begins now."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
        return cls(plain, counted(pack), devices)

    def changes(self, earlier: Origin) -> list[str]:
        """What is not as it was, each as "size was 96, is 192"; what an older checkpoint did not know is no change."""
        now, then = _flat(asdict(self)), _flat(asdict(earlier))
        common = sorted(now.keys() & then.keys() - {"from_step"})
        return [f"{key} was {then[key]}, is {now[key]}" for key in common if now[key] != then[key]]


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def as_trained(recipe: Recipe, origins: Sequence[Origin]) -> Recipe:
    """The recipe with the numbers and names that a training was run with, as far as they were noted."""
    if not origins:
        return recipe
    plain = [field.name for field in fields(Recipe) if field.name not in ("augmentation", "shares")]
    stored: dict[str, Any] = {name: origins[-1].recipe[name] for name in plain if name in origins[-1].recipe}
    changes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    return replace(recipe, **changes)


def fingerprint(patient: str) -> str:
    """A patient's group as 12 hex digits: lets a file say whom it knows without naming anybody."""
    return hashlib.sha256(f"hepaseg-patient:{patient_group(patient)}".encode()).hexdigest()[:12]


def counted(pack: Pack) -> dict[str, Any]:
    """Of every source its slices, patients and lesions; who they are as fingerprints; a checksum of all voxels."""
    sources: dict[str, Any] = {}
    for name in sorted({entry.source for entry in pack.entries}):
        at = [n for n, entry in enumerate(pack.entries) if entry.source == name]
        lesions: dict[str, int] = {}
        for n in at:
            group, pixels = patient_group(pack.entries[n].patient), int((pack.labels[n] == 2).sum())
            if pixels:
                lesions[group] = lesions.get(group, 0) + pixels
        sources[name] = {
            "slices": len(at),
            "patients": len({patient_group(pack.entries[n].patient) for n in at}),
            "patients_with_lesions": len(lesions),
            "lesion_pixels": sum(lesions.values()),
            "lesion_pixels_of_one_patient": max(lesions.values(), default=0),
        }
    known = {fingerprint(entry.patient) for entry in pack.entries if entry.source != "phantom"}
    return {"sources": sources, "known_patients": sorted(known), "checksum": _checksum(pack)}


def _checksum(pack: Pack) -> int:
    checksum = 0
    for n in range(len(pack.entries)):
        for voxels in (pack.hounsfield[n], pack.labels[n]):
            checksum = zlib.crc32(voxels.view(np.uint8).data, checksum)
    return checksum


def in_words(data: dict[str, Any]) -> str:
    """One sentence about `counted`: "1,234 slices of 5 patients (whole LiTS volumes), …"."""
    parts = []
    for name, count in data["sources"].items():
        slices = _several(count["slices"], "slice")
        if name == "phantom":
            parts.append(f"{slices} of {_several(count['patients'], 'synthetic phantom')}")
        else:
            parts.append(f"{slices} of {_several(count['patients'], 'patient')} ({SOURCES.get(name, name)})")
    return ", ".join(parts)


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def lesions_in_words(data: dict[str, Any]) -> str:
    """One sentence about the real lesions of `counted`."""
    real = {name: count for name, count in data["sources"].items() if name != "phantom"}
    patients = sum(count["patients_with_lesions"] for count in real.values())
    if not patients:
        return "no real lesion, only synthetic ones"
    pixels = sum(count["lesion_pixels"] for count in real.values())
    largest = max(count["lesion_pixels_of_one_patient"] for count in real.values()) / pixels
    one = "one patient" if patients == 1 else f"{patients} patients, one of whom has {largest:.0%} of the lesion pixels"
    return f"real lesions of {one}, and otherwise synthetic ones"


def steps_in_words(step: int, origins: Iterable[Origin]) -> str:
    """How far, as "1,200 of the 19,125 steps of paper()", and what was changed in the recipe or on the way."""
    told = list(origins)
    if not told:
        return f"{step:,} steps"
    last = told[-1]
    whole = RECIPES[last.recipe["name"]](last.recipe["task"])
    text = f"{step:,} of the {whole.steps:,} steps of {whole.name}()"
    now, stated = _flat(last.recipe), _flat(json.loads(json.dumps(asdict(whole))))
    changed = [f"{key} {now[key]}" for key in sorted(now) if key != "steps" and now[key] != stated.get(key, now[key])]
    if changed:
        text += f" with {', '.join(changed)}"
    on_the_way = [origin.from_step for origin in told if origin.from_step]
    if on_the_way:
        text += f"; recipe or data were changed at step {', '.join(f'{step:,}' for step in on_the_way)}"
    return text
