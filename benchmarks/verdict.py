"""How good the verdict is: faults put into real scans and phantoms, and good scans that must raise no alarm.

    python benchmarks/verdict.py            # prints the tables; exits with 1 where a promise is not kept
    python benchmarks/verdict.py --write    # and puts them, with the picture, into docs/

Good scans, and what only shows in the answer, go through the service's own pipeline with the shipped networks; of
changed and spoiled ones the lesion network is left out, by which nothing is judged but how much of the liver lesions
take. A fault that is named before the networks is not given to them: they could only make a refusal of the warning.
All changes of good scans are judged before the networks, a third of them by everything. Real scans come from the folder
that HEPASEG_DATA names (docs/training.md). What was judged is kept in build/ as long as scans, code and networks are
the same, so that a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import verdict_scans as scans
from kept import Kept, NotFinished, Row
from verdict_faults import FAULTS, Scan
from verdict_tables import Judged, broken_promises, tables, write

from app.errors import InputError
from app.imaging.nifti import write_volume
from app.imaging.volume import Volume
from app.inference.cascade import Cascade
from app.inference.field import Whole
from app.inference.manifest import load_networks
from app.inference.network import Network, Runtime
from app.pipeline import Request, run
from app.quality import MEND, check_scan, once

ROOT = Path(__file__).resolve().parents[1]
#: Phantoms, and how many of them are also changed and spoiled: the first ones.
PHANTOMS, PHANTOMS_WITH_FAULTS = 6, 2


def main() -> None:
    """Judge everything, print, exit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="docs/answers.md and docs/pictures/verdict.png")
    parser.add_argument("--seconds", type=float, default=1e9, help="of this piece; go on with another call")
    options = parser.parse_args()
    if not os.environ.get("HEPASEG_DATA"):
        sys.exit("HEPASEG_DATA names no folder with real CT: see docs/training.md")
    runtime = Runtime()
    bench = Bench(Cascade(load_networks(ROOT / "models", runtime), runtime), options.seconds)
    try:
        judged = list(bench.all(Path(os.environ["HEPASEG_DATA"])))
    except NotFinished:
        sys.exit("Not all is judged yet: call again.")
    print(tables(judged))
    if options.write:
        write(ROOT / "docs", judged)
    broken = broken_promises(judged)
    print("\n".join(broken) or "Every promise is kept.")
    sys.exit(1 if broken else 0)


class Bench:
    """Judges scans by the pipeline, each once."""

    def __init__(self, cascade: Cascade, seconds: float) -> None:
        self._cascade = cascade
        lesion = NoLesions(cascade.networks.lesion)
        self._liver_only = Cascade(replace(cascade.networks, lesion=lesion), cascade.runtime)
        self._kept = Kept(ROOT / "build" / f"verdict-{_fingerprint()}.json", seconds)

    def all(self, data: Path) -> Iterator[Judged]:
        """Good scans, as they are and a little changed, faults in them, then what is no abdomen."""
        for n, scan in enumerate(scans.real(data)):
            yield from self._good(scan, "real", changes=n % 3)
            yield from self._faulty(scan, "real")
        for patient, volume in scans.natives(data):
            yield self._judge(f"native {patient} {scans.AS_IT_IS}", "real", patient, volume)
        for n, scan in enumerate(scans.phantoms(PHANTOMS)):
            yield from self._good(scan, "phantom")
            yield from self._faulty(scan, "phantom") if n < PHANTOMS_WITH_FAULTS else ()
        yield from self._by_slices(data)
        others = {"a chest": list(scans.chests(data)), "a head (crude phantom)": [scans.head(0)]}
        for what, each in {**others, "thighs (crude phantom)": [scans.legs(0)]}.items():
            for scan in each:
                yield self._judge(f"other {scan.name}", what, scan.name, scan.volume, scans.NO_ABDOMEN)

    def _good(self, scan: Scan, kind: str, changes: int | None = None) -> Iterator[Judged]:
        """As it is, and every third change, through everything; all changes as far as the networks."""
        yield self._judge(f"{scan.name} {scans.AS_IT_IS}", kind, scan.patient, scan.volume, truly=scan.truly)
        for n, (name, change) in enumerate(scans.MILD.items()):
            volume = None if changes is None else change(scan)
            if volume is None:
                continue
            yield self._judge_before(f"{scan.name} {name}", kind, scan, volume)
            if n % 3 == changes:
                yield self._judge(f"{scan.name} {name}", kind, scan.patient, volume, truly=scan.truly)

    def _judge_before(self, name: str, kind: str, scan: Scan, volume: Volume) -> Judged:
        row = self._kept.row(f"{name}, before", lambda: _before(volume))
        what = f"{kind}, before the networks"
        return Judged(name, what, kind, scan.patient, row["verdict"], frozenset(row["codes"]), frozenset(), scan.truly)

    def _faulty(self, scan: Scan, kind: str) -> Iterator[Judged]:
        for fault in FAULTS:
            told = fault.needs_networks and (scan.name not in scans.WITH_NETWORKS or fault.codes & scan.truly)
            volume = None if told else fault.make(scan)
            if volume is not None:
                name = f"{scan.name} {fault.name}"
                yield self._judge(name, fault.name, scan.patient, volume, fault.codes, source=kind)

    def _by_slices(self, data: Path) -> Iterator[Judged]:
        for patient, scan in scans.by_slices(data):
            yield self._judge(f"slices {scan.name}", "slices", patient, scan.volume, truly=scans.OF_FEW_SLICES)
            for fault in (each for each in FAULTS if each.name in scans.FAULTS_OF_SLICES):
                name, volume = f"{fault.name} in slices", fault.make(scan)
                if volume is not None:
                    yield self._judge(f"slices {scan.name} {name}", name, patient, volume, fault.codes, source="slices")

    def _judge(  # noqa: PLR0913
        self,
        name: str,
        what: str,
        patient: str,
        volume: Volume,
        codes: frozenset[str] = frozenset(),
        truly: frozenset[str] = frozenset(),
        source: str = "",
    ) -> Judged:
        """codes: one of these must be named; none of a good scan."""
        whole = what == "real" and name.endswith(scans.AS_IT_IS)
        cascade = self._cascade if whole else self._liver_only
        row = self._kept.row(name, lambda: _named(volume, codes) or _verdict(volume, cascade))
        return Judged(name, what, source or what, patient, str(row["verdict"]), frozenset(row["codes"]), codes, truly)


class NoLesions:
    """A lesion network that sees none, and is else the one it is made of."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the network has
        return getattr(self._network, name)

    def field(self, hounsfield_kji: npt.NDArray[np.int16], *_: object) -> Whole:
        """Probability 0 everywhere."""
        return Whole(np.zeros(hounsfield_kji.shape, np.float32))


def _before(volume: Volume) -> Row:
    """What is said before the networks."""
    quality = check_scan(volume)
    return {"verdict": quality.verdict, "codes": [found.code for found in quality.findings]}


def _named(volume: Volume, codes: frozenset[str]) -> Row | None:
    """What is said before the networks, if that names the fault."""
    row = _before(volume)
    return row if codes & set(row["codes"]) else None


def _verdict(volume: Volume, cascade: Cascade) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        write_volume(scan, volume)
        try:
            said = run(Request(scan, None, Path(folder) / "out"), cascade).quality
        except InputError as error:
            return {"verdict": "refuse", "codes": [error.code]}
    # Without the reader's notes about the file, which is this script's own.
    quality = once(*(found for found in said.findings if found.code in MEND))
    return {"verdict": quality.verdict, "codes": [found.code for found in quality.findings]}


def _fingerprint() -> str:
    """Of everything that a verdict depends on, the scans apart."""
    parts = [ROOT / "app" / part for part in ("quality", "inference", "imaging")]
    files = [file for part in parts for file in sorted(part.rglob("*.py"))]
    files += sorted((ROOT / "benchmarks").glob("verdict_[fs]*.py"))
    digest = hashlib.sha256((ROOT / "models" / "manifest.json").read_bytes())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    main()
