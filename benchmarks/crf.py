"""The dense CRF beside pydensecrf in one run: seconds, peak memory, distance to the sum over all pairs.

    python benchmarks/crf.py            writes docs/crf.md's table and docs/crf.png; exits 1 where a figure is missed
    python benchmarks/crf.py --quick    under a minute, small volumes, writes nothing
    python benchmarks/crf.py --minutes 8    a piece of it; exits 75 if there is more: the page says what, say it again

Every measurement is kept in build/crf-benchmark.json until `--fresh` forgets them; ours belong to the very graph that
was measured, so that a changed graph is measured again and pydensecrf is not.

Each measurement is a process of its own, so that peak memory is that implementation's alone (with Python, NumPy and
the inputs). The inputs are synthetic with the doubts of a trained network: smooth rims and noise, the share of voxels
with |logit| below 3 and 5 as the shipped liver network leaves on LiTS (2.5 and 6 %).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from crf_page import exactness_line, missed, plot, report, speed_line
from kept import Kept, NotFinished
from memory import peak_gb

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
KEPT = ROOT / "build" / "crf-benchmark.json"
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
#: How many cubes are compared with the sum over all pairs, and slices of 256x256 timed for growth.
CUBES, SLICES = 4, (16, 32, 64, 128, 256)
#: Exit status where a piece ended before the whole: "try again".
AGAIN = 75
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


def _logits(probability: Array) -> Array:
    return np.asarray(np.log(probability) - np.log1p(-probability))


def parameters(kernel: str, quality: str = "fast") -> Any:  # noqa: ANN401 - training is imported late
    """Of the CRF."""
    from training import crf

    return crf.DEFAULT.model_copy(update=KERNELS[kernel] | {"quality": quality})


def ours(probability: Array, hounsfield: Array, kernel: str, quality: str = "fast") -> Callable[[], Array]:
    """What refines them once. With two labels it is what the service calls."""
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
    load = os.getloadavg()[0]
    middle = {"s": statistics.median(seconds), "cpu_s": statistics.median(cpu)}
    return middle | {"gb": peak_gb(), "runs": repeats, "load": load}


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


def graph_of(kernel: str, labels: int, quality: str = "fast") -> str:
    """The first letters of our graph's hash."""
    from training import crf

    graph = crf.build(parameters(kernel, quality), labels=labels).SerializeToString(deterministic=True)
    return hashlib.sha256(graph).hexdigest()[:12]


def kept_row(kept: Kept, method: str, shape: tuple[int, int, int], labels: int, kernel: str, repeats: int) -> Row:
    """Measured in a process of its own unless it was before."""
    which = graph_of(kernel, labels) if method == "hepaseg" else ""
    name = f"{method}{which} {shape} {labels} {kernel} {repeats} times"
    return kept.row(name, lambda: measured(method, scene(shape, labels), kernel, repeats))


def speed(rows: list[Row], kept: Kept, sizes: list[tuple[int, int, int]], repeats: int) -> None:
    """Into rows: every size, number of labels and kernel, the two implementations one after the other."""
    for shape, labels, kernel in itertools.product(sizes, (2, 3), KERNELS):
        row: Row = {"shape": shape, "labels": labels, "kernel": kernel}
        for method in METHODS:
            times = 1 if shape == LARGEST and method == "pydensecrf" else repeats
            row[method] = kept_row(kept, method, shape, labels, kernel, times)
        rows.append(row)
        print(speed_line(row), flush=True)


def exactness(rows: list[Row], kept: Kept, cubes: int) -> None:
    """Into rows: distance to the sum over all pairs on cubes of 16 voxels cut from rims of the scene."""
    for labels, kernel in itertools.product((2, 3), KERNELS):
        which = "".join(graph_of(kernel, labels, quality) for quality in ("fast", "exact"))
        found = kept.row(
            f"{which} {labels} {kernel} {cubes} cubes", functools.partial(_distances, labels, kernel, cubes)
        )
        rows += [{"labels": labels, "kernel": kernel, "name": name} | found[name] for name in found]
        print("\n".join(exactness_line(row) for row in rows[-len(found) :]), flush=True)


def _distances(labels: int, kernel: str, cubes: int) -> Row:
    from training import all_pairs

    cut = _cubes(*scene((64, 128, 128), labels, seed=1), cubes)
    truths = [all_pairs.refine(p, h, SPACING_MM, parameters(kernel)) for p, h in cut]
    answers = {
        "hepaseg fast": [ours(p, h, kernel, "fast")() for p, h in cut],
        "hepaseg exact": [ours(p, h, kernel, "exact")() for p, h in cut],
        "pydensecrf": [pydensecrf(p, h, kernel)() for p, h in cut],
    }
    return {name: _distance(found, truths) for name, found in answers.items()}


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


def growth(rows: list[Row], kept: Kept, slices: tuple[int, ...], repeats: int) -> None:
    """Into rows: seconds by number of voxels."""
    for count in slices:
        row: Row = {"voxels": count * 256 * 256}
        for method, times in (("hepaseg", repeats), ("pydensecrf", 1)):
            row[method] = kept_row(kept, method, (count, 256, 256), 2, "narrow", times)["s"]
        rows.append(row)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small volumes, once, nothing written")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this piece")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        method, folder, kernel, repeats = options.child
        print(json.dumps(child(method, Path(folder), kernel, int(repeats))))
        return
    sys.exit(quick() if options.quick else whole(options))


def quick() -> int:
    """Small volumes, once; the exit status."""
    with tempfile.TemporaryDirectory() as name:
        kept = Kept(Path(name) / "kept.json", float("inf"))
        speed([], kept, QUICK_SIZES, 1)
        exact: list[Row] = []
        exactness(exact, kept, 2)
    faults = missed([], exact, [])
    print("missed: " + ("; ".join(faults) or "nothing"))
    return 1 if faults else 0


def whole(options: argparse.Namespace) -> int:
    """All that is shown, and the page; the exit status."""
    if options.fresh:
        KEPT.unlink(missing_ok=True)
    kept = Kept(KEPT, 60 * options.minutes)
    rows, grown, exact = list[Row](), list[Row](), list[Row]()
    left = ""
    try:
        exactness(exact, kept, CUBES)
        speed(rows, kept, SIZES, options.repeats)
        growth(grown, kept, SLICES, options.repeats)
    except NotFinished as first:
        left = f"{first} and what follows"
    faults = missed(rows, exact, grown) + ([f"not measured: {left}"] if left else [])
    _write(options.out, rows, grown, exact, faults)
    print("missed: " + ("; ".join(faults) or "nothing"))
    return AGAIN if left else 1 if faults else 0


def _write(out: Path, rows: list[Row], grown: list[Row], exact: list[Row], faults: list[str]) -> None:
    if not rows:
        return
    plot(rows, grown, out / "crf.png")
    logit = np.abs(_logits(scene(SIZES[0], 2)[0]))
    head = f"Spacing {SPACING_MM} mm (k, j, i); part of the input with a |logit| "
    head += ", ".join(f"below {n}: {100 * (logit < n).mean():.1f} %" for n in (3, 5)) + "."
    report(out / "crf.md", head, rows, exact, grown, faults)


if __name__ == "__main__":
    main()
