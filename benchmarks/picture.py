"""Table and picture of `pipeline.py` in docs/benchmarks.md, between its two marks."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

BEGIN, END = "<!-- pipeline.py writes from here -->", "<!-- to here -->"


def write(docs: Path, tables: dict[str, dict[str, dict[str, float]]], text: str) -> None:
    """Replace what stands between the marks, and draw pictures/benchmark.png."""
    page = docs / "benchmarks.md"
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    shown = f"{BEGIN}\n\n{text}\n\n![Seconds and memory](pictures/benchmark.png)\n\n{END}"
    page.write_text(before + shown + after)
    _draw(docs / "pictures" / "benchmark.png", tables)


def _draw(path: Path, tables: dict[str, dict[str, dict[str, float]]]) -> None:
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3))
    kinds = list(dict.fromkeys(kind for rows in tables.values() for kind in rows))
    for kind in kinds:
        at = {name: rows[kind] for name, rows in tables.items() if kind in rows}
        slices = [int(name.split("x")[-1]) for name in at]
        time.plot(slices, [row["total"] for row in at.values()], "o-", label=kind)
        if "extrapolated" not in kind:
            memory.plot(slices, [row["peak_gb"] for row in at.values()], "o-", label=kind)
    time.set(xlabel="slices of 512x512", ylabel="seconds", yscale="log")
    memory.set(xlabel="slices of 512x512", ylabel="peak memory, GB", ylim=(0, None))
    time.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)
