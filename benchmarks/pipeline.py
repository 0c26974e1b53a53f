"""Seconds and peak memory of whole scans, ours and others', in one run: `make bench`.

Each measurement is a process of its own, so that peak memory is that pipeline's alone. The peers: a naive pipeline,
what a user would write (`naive.py`), and networks that look at cubes (`volumetric.py`), extrapolated from timed
windows.
`--quick` takes one small scan and leaves out the cubes; `--write` puts table and picture into docs/benchmarks.md.
Exits with 1 where a promise is not kept on this machine, and says by how much.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, float]
Promise = tuple[str, float, str, float]


def main() -> None:
    """Print the tables; exit with 1 where a promise is not kept."""
    options = _arguments()
    if options.child:
        from ours import as_json

        print(as_json(_children()[options.child](options.scan)))
        return
    with tempfile.TemporaryDirectory() as folder:
        scans = _scans(Path(folder), options)
        tables = {name: _measured(scan, name, options) for name, scan in scans.items()}
        promises = [kept for name, scan in scans.items() for kept in _promises(name, scan, tables[name])]
    text = "\n\n".join(_table(name, rows) for name, rows in tables.items()) + "\n\n" + _promised(promises)
    print(text)
    if options.write:
        from picture import write

        write(ROOT / "docs", tables, text)
    sys.exit(1 if any(not _is_kept(promise) for promise in promises) else 0)


def _children() -> dict[str, Callable[[Path], Row]]:
    from ours import by_command, in_process, through_the_service

    def naive(scan: Path) -> Row:
        from naive import segment

        return segment(scan)

    def cubes(kind: str) -> Callable[[Path], Row]:
        def timed(scan: Path) -> Row:
            from volumetric import seconds

            return seconds(kind, nib.load(scan).shape, 3)

        return timed

    return {
        "in process": in_process, "command": by_command, "service": through_the_service, "naive": naive,
        "nnU-Net-like, extrapolated": cubes("nnunet"), "BasicUNet windows, extrapolated": cubes("basic"),
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path, help="a CT as NIfTI; otherwise synthetic ones")
    parser.add_argument("--slices", default="100,130,300,600", help="of the synthetic 512x512 scans")
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the others run once")
    parser.add_argument("--quick", action="store_true", help="256x256x40, once, without the cubes")
    parser.add_argument("--write", action="store_true", help="docs/benchmarks.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _scans(folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    if options.scan:
        return {"x".join(map(str, nib.load(options.scan).shape)): options.scan}
    size, slices = (256, [40]) if options.quick else (512, [int(n) for n in options.slices.split(",")])
    scans = {}
    for count in slices:
        at = folder / str(count)
        command = [sys.executable, "-m", "training.phantom", str(at), "--size", str(size), "--slices", str(count)]
        subprocess.run(command, check=True, cwd=ROOT)
        scans[f"{size}x{size}x{count}"] = at / "ct.nii.gz"
    return scans


def _measured(scan: Path, name: str, options: argparse.Namespace) -> dict[str, Row]:
    """Every pipeline on one scan. The naive one would take 17 GB and minutes on 600 slices: two sizes tell enough."""
    ours = ["in process", "command", "service"]
    slices = nib.load(scan).shape[2]
    peers = ["naive"] if slices <= 130 else []
    if slices == 130 and not options.quick:
        peers += ["nnU-Net-like, extrapolated", "BasicUNet windows, extrapolated"]
    rows = {}
    for kind in (*ours, *peers):
        print(f"{name}: {kind} …", file=sys.stderr, flush=True)
        rows[kind] = _in_a_process(kind, scan, 1 if options.quick or kind in peers else options.repeats)
    return rows


def _in_a_process(kind: str, scan: Path, repeats: int) -> Row:
    """Medians over processes; of the memory the largest."""
    runs: list[Row] = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--child", kind, "--scan", str(scan)]
        done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]} | {
        "peak_gb": max(run["peak_gb"] for run in runs)
    }


def _promises(name: str, scan: Path, rows: dict[str, Row]) -> list[Promise]:
    """(what, measured, "at least" or "at most", promised)."""
    from floors import floor_s

    from app.jobs.memory import needed_bytes

    ours, service = rows["in process"], rows["service"]
    image = nib.load(scan)
    shape = image.shape
    labels = np.asarray(nib.load(scan.with_name("labels.nii.gz")).dataobj) if scan.name == "ct.nii.gz" else None
    liver = shape[2] if labels is None else int(labels.any(axis=(0, 1)).sum())
    floors = floor_s(shape, float(image.header.get_zooms()[2]), liver, "int8")
    without_crf = ours["total"] - ours["crf"]
    wrong = abs(needed_bytes(int(np.prod(shape))) / 1e9 / service["peak_gb"] - 1)
    told = f"{floors['arithmetic']:.2f} s of arithmetic and {floors['bytes']:.2f} s of bytes; neither counts the CRF"
    kept: list[Promise] = [
        (f"{name}: time over the floors, {told}", without_crf / sum(floors.values()), "at most", 1.3),
        (f"{name}: what the service adds", service["total"] / service["pipeline"] - 1, "at most", 0.05),
        (f"{name}: upload, MB/s", service["upload_mb_s"], "at least", 200),
        (f"{name}: error of the memory predicted", wrong, "at most", 0.2),
        (f"{name}: peak memory, GB", service["peak_gb"], "at most", 4.0),
    ]  # fmt: skip
    if "naive" in rows:
        kept.append((f"{name}: naive over ours, time", rows["naive"]["total"] / ours["total"], "at least", 12))
        kept.append((f"{name}: ours over naive, memory", ours["peak_gb"] / rows["naive"]["peak_gb"], "at most", 0.5))
    for kind, row in rows.items():
        if kind.startswith("nnU-Net"):
            kept.append((f"{name}: {kind} over ours, time", row["total"] / ours["total"], "at least", 120))
    return kept


def _is_kept(promise: Promise) -> bool:
    _, measured, sense, promised = promise
    return measured >= promised if sense == "at least" else measured <= promised


def _promised(promises: list[Promise]) -> str:
    lines = ["| | measured | promised | |", "|---|---|---|---|"]
    for what, measured, sense, promised in promises:
        told = "kept" if _is_kept((what, measured, sense, promised)) else "**not reached**"
        lines.append(f"| {what} | {measured:.3g} | {sense} {promised:g} | {told} |")
    return "\n".join(lines)


def _table(name: str, rows: dict[str, Row]) -> str:
    lines = [f"{name}:", "", "| | total | peak | stages |", "|---|---|---|---|"]
    for kind, row in rows.items():
        stages = ", ".join(f"{k} {v:.2f}" for k, v in row.items() if k not in ("total", "peak_gb"))
        lines.append(f"| {kind} | {row['total']:.2f} s | {row['peak_gb']:.2f} GB | {stages} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
