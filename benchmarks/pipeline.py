"""Seconds and peak memory of one scan, ours and a naive pipeline's, in one run: `make bench`.

Each measurement is a process of its own, so that peak memory is that pipeline's alone. The naive pipeline is what
a user would write: nibabel's float64 array, equalisation slice by slice in NumPy, the same U-Net in eager PyTorch
slice by slice, pydensecrf (the fork pydensecrf2, left out with a notice where it is not installed). Its weights are
random: they change no time.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What the first release promises for 512x512x130 on 2 cores.
CEILING_S, CEILING_GB = 20.0, 3.0


def main() -> None:
    """Print the table; exit with 1 where a ceiling is not kept."""
    options = _arguments()
    if options.child:
        row = CHILDREN[options.child](options.scan)
        print(json.dumps(row | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
        return
    with tempfile.TemporaryDirectory() as folder:
        scan = options.scan or _phantom(Path(folder), options.slices)
        rows = {name: _measure(name, scan, options.repeats if name == "hepaseg" else 1) for name in CHILDREN}
    _print_table(rows)
    ours = rows["hepaseg"]
    sys.exit(0 if ours["total"] < CEILING_S and ours["peak_gb"] < CEILING_GB else 1)


def hepaseg(scan: Path) -> dict[str, float]:
    """Our pipeline in process, networks loaded before the clock starts, files written."""
    from app.inference.cascade import Cascade
    from app.inference.manifest import load_networks
    from app.pipeline import Request, run
    from app.settings import Settings

    settings = Settings()
    start = time.perf_counter()
    cascade = Cascade(load_networks(settings.models_dir, settings.runtime()), settings.runtime())
    load_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        report = run(Request(scan, None, Path(folder)), cascade)
    return {"load": load_s, **report.timings_s.model_dump()}


def naive(scan: Path) -> dict[str, float]:
    """The pipeline that a user would write from the preprint."""
    from naive import segment

    return segment(scan)


CHILDREN = {"hepaseg": hepaseg, "naive": naive}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path, help="a CT as NIfTI; otherwise a synthetic one")
    parser.add_argument("--slices", type=int, default=130, help="of the synthetic 512x512 scan")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    return parser.parse_args()


def _phantom(folder: Path, slices: int) -> Path:
    command = [sys.executable, "-m", "training.phantom", str(folder), "--size", "512", "--slices", str(slices)]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder / "ct.nii.gz"


def _measure(name: str, scan: Path, repeats: int) -> dict[str, float]:
    """Medians over processes, and the largest peak memory of any of them."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--child", name, "--scan", str(scan)]
        done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _print_table(rows: dict[str, dict[str, float]]) -> None:
    ours = rows["hepaseg"]
    for name, row in rows.items():
        stages = "  ".join(f"{key} {value:.2f}" for key, value in row.items() if key not in ("total", "peak_gb"))
        print(f"{name:8} {row['total']:7.2f} s  {row['peak_gb']:5.2f} GB   {stages}")
    print(
        f"naive / hepaseg: {rows['naive']['total'] / ours['total']:.1f} times the time, "
        f"{rows['naive']['peak_gb'] / ours['peak_gb']:.1f} times the memory"
    )


if __name__ == "__main__":
    main()
