"""Who is trained on and who is not: by patient over all sources together, the same on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

#: Patients of LiTS kept out of every training: volumes 3 and 5, in whatever source they turn up.
ALWAYS_KEPT_OUT = frozenset({3, 5})
#: Patients who carry the lesion labels that are trained on; never kept out.
ALWAYS_TRAINED = frozenset({0, 1, 2, 4, 6})
#: Which part of the other patients is kept out.
KEPT_OUT_FRACTION = 0.127
#: Patients without liver slices who are kept out; the second may belong to 3D-IRCADb, which others test on.
KEPT_OUT_NEGATIVES = ("nbia_chest", "IRCADmaybe")


class DataError(ValueError):
    """The data cannot be trained on as they are; the message says which file, and what to mend."""


class Belongs(Protocol):
    """A case, or a slice of one: whose it is, and from which kind of source."""

    @property
    def patient(self) -> str:
        """The patient's key."""

    @property
    def source(self) -> str:
        """The adapter's name."""


def patient_number(patient: str) -> int | None:
    """The LiTS number inside a patient key, or None: `LiTS004`, `LiTSidx10004` and `volume-4` all give 4.

    Archives index the same scans differently (`idx10004` is the fifth of another listing); reading both as 4 can only
    join two patients, never split one.
    """
    found = re.search(r"(\d+)$", patient)
    return int(found.group(1)) % 10000 if found and patient.lower().startswith(("lits", "volume")) else None


def patient_group(patient: str) -> str:
    """The key by which patients are split: one group never lies on two sides."""
    number = patient_number(patient)
    return patient if number is None else f"lits-{number}"


def _rank(group: str) -> str:
    return hashlib.sha256(f"hepaseg-split:{group}".encode()).hexdigest()


def kept_out_groups(groups: Iterable[str], own: Iterable[str] = ()) -> frozenset[str]:
    """Those of the groups that no training sees: fixed ones, and about one in eight by hash.

    A group's place depends on its key alone: not on the machine, nor on what other data lie beside it. The exception
    are a few scans of one's `own`: of two or more patients one is kept out even if the hash would keep none.
    """
    forced = {f"lits-{number}" for number in ALWAYS_KEPT_OUT}
    trained = {f"lits-{number}" for number in ALWAYS_TRAINED}
    mine = set(own)
    chosen = {group for group in {*groups, *mine} if int(_rank(group), 16) < KEPT_OUT_FRACTION * 2**256}
    if len(mine) > 1 and not mine & chosen:
        chosen.add(min(mine, key=_rank))
    return frozenset(forced | chosen - trained)


def kept_out(items: Sequence[Belongs]) -> list[bool]:
    """Of each case or slice whether no training may see it."""
    own = {patient_group(item.patient) for item in items if item.source == "pairs"}
    groups = kept_out_groups((patient_group(item.patient) for item in items), own)
    return [is_kept_out(item.patient, item.source, groups) for item in items]


def possible_groups(patient: str) -> set[str]:
    """Every group that slices without liver may belong to.

    An archive numbers LiTS's second batch from 0 (`LiTSbatch2_sample_0012`); that batch starts at volume 28. It does
    not say whether its number is the volume's, so both readings count.
    """
    group, number = patient_group(patient), patient_number(patient)
    return {group, f"lits-{number + 28}"} if "_sample_" in patient and number is not None else {group}


def is_kept_out(patient: str, source: str, kept_out: frozenset[str]) -> bool:
    """Whether slices of this patient must not be trained on. Phantoms have seeds of their own for scoring."""
    if source == "phantom":
        return False
    return patient.startswith(KEPT_OUT_NEGATIVES) or bool(possible_groups(patient) & kept_out)


def folds(groups: Iterable[str], count: int) -> list[frozenset[str]]:
    """The groups dealt into `count` parts in the order of their hash: the same on every machine, no group twice."""
    ordered = sorted(set(groups), key=_rank)
    if not 2 <= count <= len(ordered):
        raise DataError(f"{len(ordered)} patients cannot be dealt into {count} folds: name fewer by --folds")
    return [frozenset(ordered[start::count]) for start in range(count)]
