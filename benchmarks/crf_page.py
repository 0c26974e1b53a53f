"""What benchmarks/crf.py says of what it measured: the promises that are missed, its tables and its picture."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]
METHODS = ("hepaseg", "pydensecrf")
#: Times faster than pydensecrf by labels, part of its memory, max |dQ| of the exact setting, growth per voxel.
FASTER, MEMORY, EXACT_MAX, GROWTH = {2: 12.0, 3: 10.0}, 0.5, 0.05, 1.5
#: Where the part of the page begins that is written here.
MEASURED = "## Measured"


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


def speed_line(row: Row) -> str:
    """A line of the table."""
    a, b = row["hepaseg"], row["pydensecrf"]
    return (
        f"| {_case(row)} "
        f"| {a['s']:.2f} s ({a['cpu_s']:.2f} CPU s), {a['gb']:.2f} GB "
        f"| {b['s']:.1f} s ({b['cpu_s']:.1f} CPU s), {b['gb']:.2f} GB "
        f"| {b['s'] / a['s']:.1f} | {a['gb'] / b['gb']:.2f} |"
    )


def exactness_line(row: Row) -> str:
    """A line of the other table."""
    same = f"{row['same']:.2f} %"
    return f"| {row['name']}, {row['labels']} labels, {row['kernel']} | {same} | {row['mean']:.5f} | {row['max']:.3f} |"


def peers() -> str:
    """Who else could have been measured here, and why not."""
    monai = importlib.util.find_spec("monai") is not None and importlib.util.find_spec("monai._C") is not None
    simple = importlib.util.find_spec("denseCRF3D") is not None
    return (
        f"MONAI's CRF needs its C++ extension `monai._C`, which {'is here' if monai else 'is not here'}"
        f"; SimpleCRF's `denseCRF3D` {'is installed but takes no spacing' if simple else 'is not installed'}."
    )


def report(page: Path, given: str, rows: list[Row], exact: list[Row], grown: list[Row], faults: list[str]) -> None:
    """Write the measured part of the page anew; `given` says what was refined."""
    each = [row[method] for row in rows for method in METHODS]
    loads, runs = [one["load"] for one in each], [one["runs"] for one in each]
    head = (
        f"Written by `benchmarks/crf.py`: {len(os.sched_getaffinity(0))} cores, load {min(loads):.1f} to "
        f"{max(loads):.1f} while it was measured, medians of {min(runs)} runs at "
        f"least. {given}"
    )
    grew = ", ".join(
        f"{row['voxels'] / 1e6:.1f} M voxels {row['hepaseg']:.2f} s (pydensecrf {row['pydensecrf']:.1f} s)"
        for row in grown
    )
    lines = [
        MEASURED, "", head, "", peers(), "",
        "| volume | hepaseg | pydensecrf | times faster | part of its memory |", "|---|---|---|---|---|",
        *(speed_line(row) for row in rows), "",
        "Against the sum over all pairs, on cubes of 16 voxels at rims:", "",
        "| | equal labels | mean \\|dQ\\| | max \\|dQ\\| |", "|---|---|---|---|",
        *(exactness_line(row) for row in exact), "",
        f"Narrow kernels, 2 labels: {grew or 'growth is not measured'}.", "", "![seconds by voxels](crf.png)", "",
        "Missed: " + ("; ".join(faults) or "nothing") + ".", "",
    ]  # fmt: skip
    page.write_text(page.read_text().partition(MEASURED)[0] + "\n".join(lines))


def plot(rows: list[Row], grown: list[Row], path: Path) -> None:
    """Seconds by voxels, both axes logarithmic: of the growth, and of every case of the table."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name in METHODS:
        (line,) = axes.loglog([row["voxels"] / 1e6 for row in grown], [row[name] for row in grown], "o-", label=name)
        voxels = [math.prod(row["shape"]) / 1e6 for row in rows]
        axes.loglog(voxels, [row[name]["s"] for row in rows], "x", color=line.get_color(), label=f"{name}, the table")
    axes.set(xlabel="million voxels", ylabel="seconds, 5 iterations", title="Lines: 2 labels, narrow kernels")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
