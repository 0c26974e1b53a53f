"""The curves of a training: curve.csv, TensorBoard events, curve.png; all of them views of the checkpoint's list."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from app.imaging.atomic import write_text, written_whole


class Point(NamedTuple):
    """A checkpoint: mean loss since the one before, learning rate, seconds so far, Dice on watched slices or nan."""

    step: int
    loss: float
    rate: float
    seconds: float
    dice: float = math.nan


class Curves:
    """Keeps the list of a run's points and shows it: a bar while training, files after every point.

    The list belongs to the checkpoint; the files are written from the whole of it, so that a kill leaves no gap and no
    half line. TensorBoard's events are appended, and those of steps that a kill undid are marked as void.
    """

    def __init__(self, folder: Path, points: list[Point], *, visible: bool) -> None:
        self._folder, self._points, self._visible = folder, points, visible
        self._began = time.monotonic() - (points[-1].seconds if points else 0.0)
        self._board: SummaryWriter | None = None

    def __enter__(self) -> Self:
        if self._visible:
            last = self._points[-1].step if self._points else 0
            self._board = SummaryWriter(str(self._folder), purge_step=last + 1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()
        if self._visible and self._points:
            write(self._folder, self._points)

    def steps(self, first: int, last: int) -> Iterator[int]:
        """The steps of a training; a bar on a terminal, nothing elsewhere."""
        quiet = None if self._visible else True
        yield from tqdm(range(first, last), self._folder.name, last, initial=first, disable=quiet, unit="step")

    def add(self, step: int, losses: Sequence[float], rate: float, dice: float | None) -> None:
        """A point: the mean of the losses since the last one."""
        seconds = round(time.monotonic() - self._began, 1)
        loss = math.fsum(losses) / len(losses)
        point = Point(step, loss, rate, seconds, math.nan if dice is None else dice)
        self._points.append(point)
        if self._board is not None:
            for name in ("loss", "rate", "dice"):
                if not math.isnan(getattr(point, name)):
                    self._board.add_scalar(name, getattr(point, name), step)
            self._board.flush()
            write(self._folder, self._points)


def write(folder: Path, curve: Sequence[Point]) -> None:
    """The table and the picture, each whole."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(Point._fields)
    rows.writerows([point.step, repr(point.loss), point.rate, point.seconds, point.dice] for point in curve)
    write_text(folder / "curve.csv", text.getvalue())
    with written_whole(folder / "curve.png") as file:
        _drawn(folder.name, curve).savefig(file, format="png")


def _drawn(title: str, curve: Sequence[Point]) -> Figure:
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    steps = [point.step for point in curve]
    axes.plot(steps, [point.loss for point in curve], color="tab:blue", marker=".", label="loss")
    axes.set(title=title, xlabel="step", ylabel="loss", xlim=(0, None))
    watched = [point for point in curve if not math.isnan(point.dice)]
    if watched:
        beside = axes.twinx()
        beside.plot([p.step for p in watched], [p.dice for p in watched], color="tab:green", marker=".", label="Dice")
        beside.set(ylabel="Dice of watched slices", ylim=(0, 1))
        figure.legend(loc="outside lower right", ncols=2)
    return figure
