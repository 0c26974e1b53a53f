"""Which lesions of the prior scan are which of the current one, once the livers lie over each other.

1. Two lesions are linked if they share at least `LEAST_SHARE` of the smaller one. Lesions that are linked, also by way
   of others, are one group: one and one are the same lesion, several that became one have merged, one that became
   several has split.
2. Of lesions that are linked to none, the nearest pairs of one each whose centroids lie at most `TOLERANCE_MM` apart
   are the same lesion too: what registration may be wrong by, small lesions need not overlap.
3. What is left is gone or new, unless the other scan does not reach to where it would lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from app.followup.alignment import Alignment, sample
from app.followup.lesions import Date
from app.imaging.volume import Float64, Geometry, Mask

#: Of neighbours, registration makes edges overlap by a little; of the same lesion, most is shared.
LEAST_SHARE = 0.2
#: About the most that registration is wrong by in the middle of a lesion, of all that `benchmarks/followup.py` tries.
TOLERANCE_MM = 10.0

#: How a group was found; None for a lesion alone.
By = Literal["overlap", "distance"] | None


@dataclass(frozen=True)
class Group:
    """Lesions that are one, by number: prior (), current () or neither empty.

    distance_mm: between the centroids of all of either side, in the current scan; None if one side is empty.
    covered: whether the other scan reaches to where a lesion alone would lie.
    """

    prior: tuple[int, ...]
    current: tuple[int, ...]
    by: By = None
    distance_mm: float | None = None
    covered: bool = True


def match(prior: Date, current: Date, alignment: Alignment) -> list[Group]:
    """Every lesion of both scans in one group: those that are there now by their largest, then those that are not."""
    there = _centroids(prior)
    here = _centroids(current)
    if len(there):
        there = alignment.to_current(there)
    links = _shares(prior, current, alignment) >= LEAST_SHARE
    groups = [_joined(p, c, prior, current, there, here) for p, c in _linked(links)]
    free_there, free_here = np.flatnonzero(~links.any(axis=1)), np.flatnonzero(~links.any(axis=0))
    for p, c in _nearest(there[free_there], here[free_here]):
        pair = [int(free_there[p])], [int(free_here[c])]
        groups.append(_joined(*pair, prior, current, there, here, by="distance"))
    was = alignment.to_prior(here) if len(here) else here
    groups += [
        *(Group((n,), (), covered=_reaches(current.geometry, there[n - 1])) for n in _alone(prior, groups, "prior")),
        *(Group((), (n,), covered=_reaches(prior.geometry, was[n - 1])) for n in _alone(current, groups, "current")),
    ]
    return sorted(groups, key=lambda group: (not group.current, group.current or group.prior))


def _alone(date: Date, groups: Sequence[Group], side: Literal["prior", "current"]) -> list[int]:
    """The lesions of one scan that are in no group yet."""
    matched = {number for group in groups for number in (group.prior if side == "prior" else group.current)}
    return [lesion.id for lesion in date.lesions if lesion.id not in matched]


def _centroids(date: Date) -> Float64:
    return np.array([lesion.centroid_mm for lesion in date.lesions]).reshape(-1, 3)


def _shares(prior: Date, current: Date, alignment: Alignment) -> Float64:
    """(p, c): what lesions share, in the current scan, over the volume of the smaller one."""
    count, ids = len(prior.lesions), prior.numbered.on_grid
    shared = np.zeros((count, len(current.lesions)))
    for c, box in enumerate(current.numbered.boxes):
        ijk = np.argwhere(current.numbered.mask(c + 1)) + box.start
        was = alignment.to_prior(current.geometry.to_mm(ijk))
        found = sample(ids, prior.geometry, was, beyond=0.0, order=0).astype(np.int64)
        shared[:, c] = np.bincount(found, minlength=count + 1)[1:] * current.geometry.voxel_volume_ml
    sizes, sizes_now = (np.array([each.volume_ml.value for each in date.lesions]) for date in (prior, current))
    return np.asarray(shared / np.minimum(sizes[:, None], sizes_now[None, :]))


def _linked(links: Mask) -> Iterator[tuple[list[int], list[int]]]:
    """The groups of linked lesions, as indices from 0 of prior and current ones."""
    p, c = np.nonzero(links)
    count = links.shape[0]
    size = count + links.shape[1]
    number, of = connected_components(coo_array((np.ones(len(p)), (p, c + count)), shape=(size, size)), directed=False)
    for group in range(number):
        members = np.flatnonzero(of == group)
        if len(members) > 1:
            yield members[members < count].tolist(), (members[members >= count] - count).tolist()


def _nearest(there: Float64, here: Float64) -> Iterator[tuple[int, int]]:
    """Pairs of one each, the nearest first, as indices."""
    apart = cdist(there, here)
    while apart.size and apart.min() <= TOLERANCE_MM:
        p, c = np.unravel_index(int(apart.argmin()), apart.shape)
        yield int(p), int(c)
        apart[p, :] = np.inf
        apart[:, c] = np.inf


def _joined(  # noqa: PLR0913 - both sides of a pair
    p: list[int], c: list[int], prior: Date, current: Date, there: Float64, here: Float64, by: By = "overlap"
) -> Group:
    middles = (_middle(date, points, numbers) for date, points, numbers in ((prior, there, p), (current, here, c)))
    distance = float(np.linalg.norm(np.subtract(*middles)))
    return Group(tuple(n + 1 for n in p), tuple(n + 1 for n in c), by, distance)


def _middle(date: Date, points_mm: Float64, numbers: list[int]) -> Float64:
    """The centroid of several lesions together."""
    weights = np.array([date.lesions[n].volume_ml.value for n in numbers])
    return np.asarray(weights @ points_mm[numbers] / weights.sum())


def _reaches(geometry: Geometry, point_mm: Float64) -> bool:
    ijk = np.linalg.inv(geometry.affine)[:3] @ np.append(point_mm, 1.0)
    return bool((ijk > -0.5).all() and (ijk < np.array(geometry.shape) - 0.5).all())
