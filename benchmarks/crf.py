"""The dense CRF beside pydensecrf in one run: seconds, peak memory, distance to the sum over all pairs.

    python benchmarks/crf.py            writes docs/crf.md's table and docs/crf.png; exits 1 where a figure is missed
    python benchmarks/crf.py --quick    under a minute, small volumes, writes nothing

Each measurement is a process of its own, so that peak memory is that implementation's alone (with Python, NumPy and
the inputs). The inputs are synthetic with the doubts of a trained network: smooth rims and noise, the share of voxels
with |logit| below 3 and 5 as the shipped liver network leaves on LiTS (2.5 and 6 %).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SPACING_MM = (1.33, 0.8, 0.8)
KERNELS = {
    "narrow": {"appearance_mm": 4.0, "appearance_hu": 20.0, "smoothness_mm": 2.0},
    "wide": {"appearance_mm": 15.0, "appearance_hu": 20.0, "smoothness_mm": 3.0},
}
#: Slices, rows, columns.
SIZES = [(64, 256, 256), (128, 256, 320), (200, 300, 400)]
QUICK_SIZES = [(32, 128, 160)]
#: Where one run of pydensecrf takes a minute it is run once.
LARGEST = SIZES[-1]
#: Times faster than pydensecrf by labels, part of its memory, max |dQ| of the exact setting, growth per voxel.
FASTER, MEMORY, EXACT_MAX, GROWTH = {2: 12.0, 3: 10.0}, 0.5, 0.05, 1.5
#: Where the part of the page begins that is written here.
MEASURED = "## Measured"
Row = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]


def scene(shape: tuple[int, int, int], labels: int, seed: int = 0) -> tuple[Array, Array]:
    """Probability (K, J, I) or (2, K, J, I) and HU (K, J, I): a liver with lesions among other tissue."""
    random = np.random.default_rng(seed)
    liver_logit = _logit(random, shape, 25.0)
    lesion_logit = _logit(random, shape, 12.0, offset=1.0)
    noise = _field(random, shape, 1.0)
    liver, lesion = (1 / (1 + np.exp(-each)) for each in (liver_logit, lesion_logit))
    other = np.where(_field(random, shape, 15.0) > 0.5, 30, 70)
    tissue = np.where(liver_logit > 0, np.where(lesion_logit > 0, 70, 110), other)
    hounsfield = (tissue + 10 * noise + 8 * random.standard_normal(shape, np.float32)).astype(np.int16)
    if labels == 2:
        return liver.astype(np.float32), hounsfield
    return np.stack([liver * (1 - lesion), liver * lesion]).astype(np.float32), hounsfield


def _field(random: np.random.Generator, shape: tuple[int, ...], width_mm: float) -> Array:
    """Noise smooth over width_mm, of variance about 1."""
    from scipy import ndimage

    small = [max(2, round(n * mm / width_mm) + 1) for n, mm in zip(shape, SPACING_MM, strict=True)]
    coarse = random.standard_normal(small).astype(np.float32)
    zoomed = ndimage.zoom(coarse, [n / m for n, m in zip(shape, small, strict=True)], order=1)
    return np.asarray(zoomed / zoomed.std(), np.float32)


def _logit(random: np.random.Generator, shape: tuple[int, ...], width_mm: float, offset: float = 0.0) -> Array:
    field = _field(random, shape, width_mm) - offset
    some = np.abs(field).ravel()[::97]
    steep = 3 / np.quantile(some, 0.025)
    noisy = steep * field + 0.7 * _field(random, shape, 3.0)
    return np.asarray(np.clip(noisy, -8.5, 8.5), np.float32)


def parameters(kernel: str, quality: str = "fast") -> Any:  # noqa: ANN401 - training is imported late
    """Of the CRF."""
    from training import crf

    return crf.DEFAULT.model_copy(update=KERNELS[kernel] | {"quality": quality})


def ours(probability: Array, hounsfield: Array, kernel: str, quality: str = "fast") -> Callable[[], Array]:
    """What refines them once. With two labels it is what the service calls."""
    import hashlib

    import onnxruntime

    from app.inference.crf import refine
    from app.inference.network import Network, Runtime
    from training import crf

    if probability.ndim == 3:
        graph = crf.build(parameters(kernel, quality)).SerializeToString(deterministic=True)
        network = Network(graph, hashlib.sha256(graph).hexdigest(), "crf", "crf", Runtime())
        return lambda: refine(probability, hounsfield, SPACING_MM, network)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = len(os.sched_getaffinity(0)), False
    # as the service's sessions
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = crf.build(parameters(kernel, quality), labels=3).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options)
    feeds = {"probability": probability, "hounsfield": hounsfield, "spacing_mm": np.array(SPACING_MM, np.float32)}
    return lambda: session.run(None, feeds)[0]


def pydensecrf(probability: Array, hounsfield: Array, kernel: str, _quality: str = "") -> Callable[[], Array]:
    """The same kernels."""
    from pydensecrf import densecrf

    from app.inference.crf import PROBABILITY_FLOOR

    p = parameters(kernel)
    given = probability.reshape(-1, hounsfield.size)

    def run() -> Array:
        every = np.concatenate([1 - given.sum(0, keepdims=True), given])
        position_mm = np.indices(hounsfield.shape, np.float32).reshape(3, -1)
        position_mm *= np.array(SPACING_MM, np.float32)[:, None]
        grey = np.clip(hounsfield, *p.hu_range).reshape(1, -1).astype(np.float32) / p.appearance_hu
        field = densecrf.DenseCRF(hounsfield.size, len(every))
        field.setUnaryEnergy(-np.log(np.clip(every, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)))
        field.addPairwiseEnergy(np.concatenate([position_mm / p.appearance_mm, grey]), compat=p.appearance_weight)
        position_mm /= p.smoothness_mm
        field.addPairwiseEnergy(position_mm, compat=p.smoothness_weight)
        return np.asarray(field.inference(p.iterations))[1:].reshape(probability.shape)

    return run


METHODS = {"hepaseg": ours, "pydensecrf": pydensecrf}


def child(method: str, folder: Path, kernel: str, repeats: int) -> Row:
    """Runs in a process of its own."""
    probability, hounsfield = np.load(folder / "probability.npy"), np.load(folder / "hounsfield.npy")
    run = METHODS[method](probability, hounsfield, kernel)
    seconds, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"s": statistics.median(seconds), "cpu_s": statistics.median(cpu), "gb": peak, "runs": repeats}


def measured(method: str, scene_of: tuple[Array, Array], kernel: str, repeats: int) -> Row:
    """In a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "probability.npy", scene_of[0])
        np.save(folder / "hounsfield.npy", scene_of[1])
        command = [sys.executable, __file__, "--child", method, name, kernel, str(repeats)]
        done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def speed(sizes: list[tuple[int, int, int]], repeats: int) -> list[Row]:
    """Every size, number of labels and kernel, the two implementations one after the other."""
    rows = []
    for shape in sizes:
        for labels in (2, 3):
            given = scene(shape, labels)
            for kernel in KERNELS:
                theirs = measured("pydensecrf", given, kernel, 1 if shape == LARGEST else repeats)
                row = {"shape": shape, "labels": labels, "kernel": kernel, "pydensecrf": theirs}
                rows.append(row | {"hepaseg": measured("hepaseg", given, kernel, repeats)})
                print(_speed_line(rows[-1]), flush=True)
    return rows


def exactness(cubes: int) -> list[Row]:
    """Distance to the sum over all pairs on cubes of 16 voxels cut from rims of the scene."""
    from training import all_pairs

    rows = []
    for labels in (2, 3):
        probability, hounsfield = scene((64, 128, 128), labels, seed=1)
        cut = _cubes(probability, hounsfield, cubes)
        for kernel in KERNELS:
            truths = [all_pairs.refine(p, h, SPACING_MM, parameters(kernel)) for p, h in cut]
            for name, method, quality in (
                ("hepaseg fast", ours, "fast"), ("hepaseg exact", ours, "exact"), ("pydensecrf", pydensecrf, ""),
            ):  # fmt: skip
                found = [method(p, h, kernel, quality)() for p, h in cut]
                rows.append({"labels": labels, "kernel": kernel, "name": name} | _distance(found, truths))
                print(_exactness_line(rows[-1]), flush=True)
    return rows


def _cubes(probability: Array, hounsfield: Array, count: int) -> list[tuple[Array, Array]]:
    random = np.random.default_rng(0)
    cubes: list[tuple[Array, Array]] = []
    while len(cubes) < count:
        first = [int(random.integers(0, n - 16)) for n in hounsfield.shape]
        box = tuple(slice(n, n + 16) for n in first)
        part = probability[(..., *box)]
        if ((part > 0.1) & (part < 0.9)).mean() > 0.02:
            cubes.append((np.ascontiguousarray(part), np.ascontiguousarray(hounsfield[box])))
    return cubes


def _distance(found: list[Array], truths: list[Array]) -> Row:
    errors = [np.abs(a - b) for a, b in zip(found, truths, strict=True)]
    same = [_labels(a) == _labels(b) for a, b in zip(found, truths, strict=True)]
    return {
        "mean": float(np.mean(errors)),
        "max": float(np.max(errors)),
        "same": 100 * float(np.mean(same)),
    }


def _labels(probability: Array) -> Array:
    stacked = probability.reshape(-1, *probability.shape[-3:])
    return np.concatenate([1 - stacked.sum(0, keepdims=True), stacked]).argmax(0)


def growth(slices: tuple[int, ...], repeats: int) -> list[Row]:
    """Seconds by number of voxels."""
    rows = []
    for count in slices:
        given = scene((count, 256, 256), 2)
        row: Row = {"voxels": given[1].size, "hepaseg": measured("hepaseg", given, "narrow", repeats)["s"]}
        rows.append(row | {"pydensecrf": measured("pydensecrf", given, "narrow", 1)["s"]})
    return rows


def missed(rows: list[Row], exact: list[Row], grown: list[Row]) -> list[str]:
    """The figures that are not reached."""
    faults = []
    for row in rows:
        ratio = row["pydensecrf"]["s"] / row["hepaseg"]["s"]
        if ratio < FASTER[row["labels"]]:
            faults.append(f"{_case(row)}: {ratio:.1f} times faster, not {FASTER[row['labels']]:.0f}")
        if row["hepaseg"]["gb"] > MEMORY * row["pydensecrf"]["gb"]:
            faults.append(f"{_case(row)}: more than half of pydensecrf's memory")
    theirs = {(r["labels"], r["kernel"]): r["mean"] for r in exact if r["name"] == "pydensecrf"}
    for row in exact:
        if row["name"] != "pydensecrf" and row["mean"] > theirs[row["labels"], row["kernel"]]:
            faults.append(f"{row['name']}, {row['labels']} labels, {row['kernel']}: mean |dQ| above pydensecrf's")
        if row["name"] == "hepaseg exact" and row["max"] >= EXACT_MAX:
            faults.append(f"exact, {row['labels']} labels, {row['kernel']}: max |dQ| {row['max']:.3f}")
    each = [row["hepaseg"] / row["voxels"] for row in grown]
    if each and each[-1] > GROWTH * each[0]:
        faults.append(f"time grows faster than the voxels: {each[-1] / each[0]:.2f} times a voxel")
    return faults


def _case(row: Row) -> str:
    k, j, i = row["shape"]
    return f"{i}x{j}x{k}, {row['labels']} labels, {row['kernel']}"


def _speed_line(row: Row) -> str:
    a, b = row["hepaseg"], row["pydensecrf"]
    return (
        f"| {_case(row)} "
        f"| {a['s']:.2f} s ({a['cpu_s']:.2f} CPU s), {a['gb']:.2f} GB "
        f"| {b['s']:.1f} s ({b['cpu_s']:.1f} CPU s), {b['gb']:.2f} GB "
        f"| {b['s'] / a['s']:.1f} | {a['gb'] / b['gb']:.2f} |"
    )


def _exactness_line(row: Row) -> str:
    same = f"{row['same']:.2f} %"
    return f"| {row['name']}, {row['labels']} labels, {row['kernel']} | {same} | {row['mean']:.5f} | {row['max']:.3f} |"


def peers() -> str:
    """Who else could have been measured here, and why not."""
    monai = importlib.util.find_spec("monai") is not None and importlib.util.find_spec("monai._C") is not None
    simple = importlib.util.find_spec("denseCRF3D") is not None
    return (
        f"MONAI's CRF needs its C++ extension `monai._C`, which {'is' if monai else 'its wheels do not have'}"
        f"{' here but is not measured' if monai else ''}. "
        f"SimpleCRF's `denseCRF3D` {'is installed but takes no spacing' if simple else 'is not installed'}."
    )


def report(rows: list[Row], exact: list[Row], grown: list[Row], faults: list[str]) -> str:
    """The page of the docs."""
    probability, _ = scene(SIZES[0], 2)
    logit = np.abs(np.log(probability) - np.log1p(-probability))
    shares = ", ".join(f"{100 * (logit < n).mean():.1f} % below {n}" for n in (3, 5))
    head = (
        f"Written by `benchmarks/crf.py`: {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the "
        f"end, spacing {SPACING_MM} mm (k, j, i), medians of {rows[0]['hepaseg']['runs']} runs (pydensecrf on the "
        f"largest volume: {rows[-1]['pydensecrf']['runs']}). Input, part with a |logit|: {shares}."
    )
    grew = ", ".join(
        f"{row['voxels'] / 1e6:.1f} M voxels {row['hepaseg']:.2f} s (pydensecrf {row['pydensecrf']:.1f} s)"
        for row in grown
    )
    lines = [
        MEASURED, "", head, "", peers(), "",
        "| volume | hepaseg | pydensecrf | times faster | part of its memory |", "|---|---|---|---|---|",
        *(_speed_line(row) for row in rows), "",
        "Against the sum over all pairs, on cubes of 16 voxels at rims:", "",
        "| | equal labels | mean \\|dQ\\| | max \\|dQ\\| |", "|---|---|---|---|",
        *(_exactness_line(row) for row in exact), "",
        f"Narrow kernels, 2 labels: {grew}.", "", "![seconds by voxels](crf.png)", "",
        "Missed: " + ("; ".join(faults) or "nothing") + ".", "",
    ]  # fmt: skip
    return "\n".join(lines)


def plot(grown: list[Row], path: Path) -> None:
    """Seconds by voxels, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name in METHODS:
        axes.loglog([row["voxels"] / 1e6 for row in grown], [row[name] for row in grown], "o-", label=name)
    axes.set(xlabel="million voxels", ylabel="seconds, 5 iterations", title="2 labels, narrow kernels")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small volumes, once, nothing written")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        method, folder, kernel, repeats = options.child
        print(json.dumps(child(method, Path(folder), kernel, int(repeats))))
        return
    rows = speed(QUICK_SIZES if options.quick else SIZES, 1 if options.quick else options.repeats)
    exact = exactness(2 if options.quick else 8)
    grown = [] if options.quick else growth((16, 32, 64, 128, 256), options.repeats)
    faults = missed([] if options.quick else rows, exact, grown)
    if not options.quick:
        plot(grown, options.out / "crf.png")
        page = options.out / "crf.md"
        page.write_text(page.read_text().partition(MEASURED)[0] + report(rows, exact, grown, faults))
    print("missed: " + ("; ".join(faults) or "nothing"))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
