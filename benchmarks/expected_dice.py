"""Whether the Dice of a liver can be told without a reference, by what the network says of itself.

    HEPASEG_DATA=... python benchmarks/expected_dice.py [--write]

Two signs are read off the shipped liver network for every patient: the Dice that its own probabilities p promise its
mask M, 2 Σ_M p / (|M| + Σ p), and how much of the mask stays if the scan is moved by some pixels, brightened by 12 HU
and made noisier by 15 HU (mean Dice with the first mask). A straight line from the sign to the true Dice is fitted on
the patients that the network was trained on, with the band that holds 90 % of them, and judged on those kept out.

Exits with 1 if a sign would do, because docs/answers.md says that none does. It would do if its mean error is at most
half of what "always the mean" is off by, and its band holds at least 85 % of patients kept out.
"""

# ruff: noqa: E402 - the path comes before what is found by it

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.inference.manifest import load_networks
from app.inference.network import Network, Runtime
from training.datasets import Pair
from training.evaluate import split_items
from training.judge import Overlap, stated
from training.split import patient_group

SIGNS = ("its own probabilities", "moved, brightened, noisier")
#: Of a whole volume so many slices with liver, evenly spread.
MOST_SLICES = 40
BAND = 0.9
Array = npt.NDArray[np.float64]


@dataclass
class Patient:
    """Sums over the slices of one patient."""

    promised: float = 0.0
    probability: float = 0.0

    def __post_init__(self) -> None:
        self.true, self.again = Overlap(), [Overlap() for _ in range(3)]

    def add(self, hounsfield: npt.NDArray[np.int16], true: npt.NDArray[np.bool_], liver: Network) -> None:
        """Count some slices."""
        threshold = stated(liver.card.threshold)
        probability = np.array(liver.run(hounsfield))
        mask = probability >= threshold
        self.promised += float(probability[mask].sum())
        self.probability += float(probability.sum())
        self.true.add(mask, true)
        for overlap, again in zip(self.again, _disturbed(hounsfield, liver), strict=True):
            overlap.add(mask, again >= threshold)

    def row(self) -> tuple[float, float, float]:
        """True Dice, and the two signs."""
        own = 2 * self.promised / (self.true.found + self.probability)
        return self.true.dice(), own, float(np.mean([each.dice() for each in self.again]))


def _disturbed(hounsfield: npt.NDArray[np.int16], liver: Network) -> Iterator[npt.NDArray[np.float32]]:
    """What the network says of the slices moved, brightened and made noisier, on their own grid."""
    moved = np.ascontiguousarray(np.roll(hounsfield, (5, 7), (1, 2)))
    yield np.roll(np.array(liver.run(moved)), (-5, -7), (1, 2))
    yield np.array(liver.run((hounsfield + 12).astype(np.int16)))
    noise = np.random.default_rng(0).normal(0, 15, hounsfield.shape)
    yield np.array(liver.run((hounsfield + noise).astype(np.int16)))


def measured(data: Path, liver: Network) -> dict[bool, Array]:
    """A row for every patient with liver: of those kept out under True, of those trained on under False."""
    patients: dict[bool, dict[str, Patient]] = {True: defaultdict(Patient), False: defaultdict(Patient)}
    for item, kept in split_items(data):
        for case in item.read() if isinstance(item, Pair) else [item]:
            true = case.labels_kji >= 1
            at = np.flatnonzero(true.any(axis=(1, 2)))
            if len(at) > MOST_SLICES:
                at = at[np.linspace(0, len(at) - 1, MOST_SLICES).round().astype(int)]
            if len(at):
                hounsfield = np.ascontiguousarray(case.hounsfield_kji[at])
                patients[kept][patient_group(case.patient)].add(hounsfield, true[at], liver)
    return {kept: np.array([each.row() for each in found.values()]) for kept, found in patients.items()}


@dataclass(frozen=True)
class Judgement:
    """How far off a sign is on patients kept out, and always saying the mean; what share its band holds."""

    error: float
    error_of_mean: float
    held: float
    rank: float
    told: Array

    def would_do(self) -> bool:
        """Whether it could be shown to people."""
        return self.error <= self.error_of_mean / 2 and self.held >= BAND - 0.05


def judged(rows: dict[bool, Array], sign: int) -> Judgement:
    """Fit on those trained on, look at those kept out."""
    trained, kept = rows[False], rows[True]
    slope, offset = np.polyfit(trained[:, 1 + sign], trained[:, 0], 1)
    band = np.quantile(np.abs(slope * trained[:, 1 + sign] + offset - trained[:, 0]), BAND)
    told = slope * kept[:, 1 + sign] + offset
    errors = np.abs(told - kept[:, 0])
    return Judgement(
        float(errors.mean()),
        float(np.abs(kept[:, 0] - trained[:, 0].mean()).mean()),
        float((errors <= band).mean()),
        float(spearmanr(told, kept[:, 0]).statistic),
        told,
    )


def draw(path: Path, rows: dict[bool, Array], judgements: list[Judgement]) -> None:
    """Told against true, a panel for each sign."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained", sharey=True)
    for panel, name, judgement in zip(panels, SIGNS, judgements, strict=True):
        panel.plot([0.88, 1], [0.88, 1], color="0.7", linewidth=1)
        panel.plot(judgement.told, rows[True][:, 0], "o", markersize=4)
        panel.set(xlabel=f"Dice told by {name}", xlim=(0.88, 1), ylim=(0.88, 1))
    panels[0].set_ylabel("true Dice")
    figure.savefig(path, dpi=90)


def main() -> int:
    """Print the table; 1 if an estimate would do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="draw docs/pictures/expected-dice.png")
    options = parser.parse_args()
    rows = measured(Path(os.environ["HEPASEG_DATA"]), load_networks(ROOT / "models", Runtime()).liver)
    for kept, of in ((False, "trained on"), (True, "kept out")):
        dice = rows[kept][:, 0]
        print(f"{len(dice)} patients {of}: Dice {dice.mean():.3f}, least {dice.min():.3f}, most {dice.max():.3f}")
    judgements = [judged(rows, sign) for sign in range(len(SIGNS))]
    print("\n| sign | mean error | of always the mean | band of 90 % holds | rank correlation |\n|---|---|---|---|---|")
    for name, found in zip(SIGNS, judgements, strict=True):
        print(f"| {name} | {found.error:.4f} | {found.error_of_mean:.4f} | {found.held:.0%} | {found.rank:.2f} |")
    if options.write:
        draw(ROOT / "docs" / "pictures" / "expected-dice.png", rows, judgements)
    return int(any(found.would_do() for found in judgements))


if __name__ == "__main__":
    sys.exit(main())
