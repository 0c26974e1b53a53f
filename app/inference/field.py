"""A probability over a stack of slices, looked at where somebody needs it and no larger than it must be.

A network works on a small grid and grows its answer to the scan's. Where a graph also gives what it grows from, only
that is kept, a few per cent of the voxels, and the rest is computed where it decides something: a pixel that grows is
an average of its neighbours, so that it reaches a threshold only where one of these does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.imaging.volume import Mask
from app.inference.between import Between

Float = npt.NDArray[np.float32]
Part = tuple[slice, ...]
EVERYWHERE: Part = (slice(None), slice(None), slice(None))
#: What rounding may add to an average of logits.
ROUNDING = 1e-3


def as_logit(probability: float) -> float:
    """ln(p / (1 - p))."""
    return float(np.log(probability / (1 - probability)))


def reaches(logit_shw: Float, threshold: float) -> Mask:
    """Of each slice (S,), whether a probability of the threshold or more may grow from it."""
    reached: Mask = logit_shw.max(axis=(1, 2)) >= as_logit(threshold) - ROUNDING
    return reached


class Field(Protocol):
    """A probability (K, J, I)."""

    def at_least(self, threshold: float) -> Mask:
        """Where it reaches the threshold, bool (K, J, I)."""

    def within(self, box: Part) -> Float:
        """Its values in a box."""


@dataclass(frozen=True, eq=False)
class Whole:
    """What a graph gives that says nothing of a smaller grid: every voxel is held."""

    probability_kji: Float

    def at_least(self, threshold: float) -> Mask:
        """Where it reaches the threshold, bool (K, J, I)."""
        mask: Mask = self.probability_kji >= threshold
        return mask

    def within(self, box: Part) -> Float:
        """Its values in a box."""
        return self.probability_kji[box]


@dataclass(frozen=True, eq=False)
class Growth:
    """How a working grid becomes a slice: `rows @ logit @ columns.T`, with rows (J, h) and columns (I, w)."""

    rows: Float
    columns: Float

    def around(self, near: Mask) -> tuple[Part, Part]:
        """Of the working grid (h, w): the box that decides about the pixels that `near` touches, and their box."""
        by_row, by_column = (np.atleast_1d(near.any(axis=axis)) for axis in (1, 0))
        (rows, to_rows), (columns, to_columns) = _touched(self.rows, by_row), _touched(self.columns, by_column)
        return (rows, columns), (to_rows, to_columns)

    def grown(self, logit: Float, of: Part, to: Part) -> Float:
        """Logits of the pixels `to`, from those in the box `of`."""
        return np.asarray(self.rows[to[0], of[0]] @ logit[of] @ self.columns[to[1], of[1]].T, np.float32)


def _touched(shares: Float, near: Mask) -> tuple[slice, slice]:
    """The working pixels that matter, first to last, and the scan's pixels that `near` ones have a share in."""
    pixels = np.flatnonzero(shares[:, near].any(axis=1))
    to = slice(int(pixels[0]), int(pixels[-1]) + 1)
    working = np.flatnonzero(shares[to].any(axis=0))
    return slice(int(working[0]), int(working[-1]) + 1), to


@dataclass(frozen=True, eq=False)
class Grown:
    """What a graph gives that says what it grows from.

    logit_shw: on the working grid, of the slices that were looked at. between: how these become the scan's. inside:
    of a lesion, the liver, outside which it is zero.
    """

    logit_shw: Float
    between: Between
    growth: Growth
    inside: Mask | None = None
    workers: int = 1

    def at_least(self, threshold: float) -> Mask:
        """Where it reaches the threshold, bool (K, J, I)."""
        least = as_logit(threshold)
        mask = np.zeros((len(self.between.known), len(self.growth.rows), len(self.growth.columns)), np.bool_)

        def decide(k: int) -> None:
            logit = self.between.slice_of(self.logit_shw, k)
            near = logit >= least - ROUNDING
            if near.any():
                of, to = self.growth.around(near)
                np.greater_equal(self.growth.grown(logit, of, to), least, out=mask[k][to])
                if self.inside is not None:
                    mask[k] &= self.inside[k]

        self._each(np.flatnonzero(self._known()).tolist(), decide)
        return mask

    def within(self, box: Part) -> Float:
        """Its values in a box."""
        slices, *to = box
        everything = tuple(slice(0, n) for n in self.logit_shw.shape[1:])
        ks = np.arange(len(self.between.known))[slices]
        rows, columns = self.growth.rows[to[0]], self.growth.columns[to[1]]
        probability = np.zeros((len(ks), len(rows), len(columns)), np.float32)
        known = self._known()

        def grow(n: int) -> None:
            k = int(ks[n])
            if known[k]:
                logit = self.growth.grown(self.between.slice_of(self.logit_shw, k), everything, tuple(to))
                _as_probability(logit, out=probability[n])
                if self.inside is not None:
                    probability[n] *= self.inside[k][tuple(to)]

        self._each(range(len(ks)), grow)
        return probability

    def _known(self) -> Mask:
        """Which slices (K,) may have a probability."""
        return self.between.known if self.inside is None else self.between.known & self.inside.any(axis=(1, 2))

    def _each(self, numbers: Iterable[int], do: Callable[[int], None]) -> None:
        with ThreadPoolExecutor(self.workers, "grow") as pool:
            for _ in pool.map(do, numbers):
                pass


def _as_probability(logit: Float, out: Float) -> None:
    with np.errstate(over="ignore"):  # exp of a very sure no is infinite, and its probability 0
        np.exp(np.negative(logit, out=out), out=out)
    out += 1
    np.reciprocal(out, out=out)
