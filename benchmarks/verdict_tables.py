"""What `verdict.py` found, as tables and as a picture, and what was promised of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

BEGIN, END = "<!-- verdict.py writes from here -->", "<!-- to here -->"
VERDICTS = ("accept", "warn", "refuse")

#: Fewer good scans than this may be alarmed at, and so many faults at least must be named.
MOST_FALSE_ALARMS = 0.02
LEAST_NAMED = 0.9
#: What is known to be found less often, and how often at least.
LEAST_NAMED_OF = {
    "MR-like, normalised": 0.5,  # somebody scaled it to the range of a CT
    "head and foot swapped": 0.8,  # a scan without lungs does not show it
    "left and right swapped in slices": 0.5,  # of a few slices, stacked
}


@dataclass(frozen=True)
class Judged:
    """One scan and what was said of it.

    what: "real", "phantom", "slices" if it is good, else its fault. expected: one of these codes must be named; empty
    of a good scan. truly: codes that are true of it as it is, and no alarm.
    """

    name: str
    what: str
    source: str
    patient: str
    verdict: str
    codes: frozenset[str]
    expected: frozenset[str]
    truly: frozenset[str]

    @property
    def alarmed(self) -> bool:
        """Whether a good scan is warned of or refused for what is not true of it."""
        return self.verdict == "refuse" or bool(self.codes - self.truly)

    @property
    def named(self) -> bool:
        """Whether a fault is neither accepted nor called something else."""
        return self.verdict != "accept" and bool(self.codes & self.expected)


def tables(judged: Sequence[Judged]) -> str:
    """Good scans, then the confusion matrix of the faults, as Markdown."""
    return f"{_good(judged)}\n\n{_faults(judged)}"


def broken_promises(judged: Sequence[Judged]) -> list[str]:
    """A sentence for each figure that was not reached."""
    good = [each for each in judged if not each.expected and each.what != "slices"]
    alarms = [each for each in good if each.alarmed]
    broken = [
        f"Refused, though good: {each.name} ({', '.join(each.codes)})" for each in good if each.verdict == "refuse"
    ]
    if len(alarms) >= MOST_FALSE_ALARMS * len(good):
        named = "; ".join(f"{each.name}: {', '.join(sorted(each.codes - each.truly))}" for each in alarms)
        broken.append(f"{len(alarms)} false alarms on {len(good)} good scans: {named}")
    for what, each in _by_fault(judged).items():
        share, least = sum(case.named for case in each) / len(each), LEAST_NAMED_OF.get(what, LEAST_NAMED)
        if share < least:
            missed = ", ".join(f"{case.name} ({' '.join(sorted(case.codes))})" for case in each if not case.named)
            broken.append(f"{what}: {share:.0%} named, at least {least:.0%} promised; missed {missed}")
    return broken


def write(docs: Path, judged: Sequence[Judged]) -> None:
    """Replace what stands between the marks in answers.md, and draw pictures/verdict.png."""
    page = docs / "answers.md"
    before, rest = page.read_text("utf-8").split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables(judged)}\n\n{END}{after}", "utf-8")
    _draw(docs / "pictures" / "verdict.png", _by_fault(judged))


def _good(judged: Sequence[Judged]) -> str:
    names = {
        "real": "real, through everything",
        "real, before the networks": "real, all mild changes, before the networks",
        "phantom": "phantoms, through everything",
        "slices": "4 to 9 slices of a patient, through everything",
    }
    rows = [
        "| good scans | scans | patients | accept | warn | refuse | false alarms | 95 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, name in names.items():
        each = [case for case in judged if case.what == what]
        alarms = sum(case.alarmed for case in each)
        low, high = binomtest(alarms, len(each)).proportion_ci(method="exact")
        patients = len({case.patient for case in each})
        interval = f"{low:.1%} to {high:.1%}"
        shown = " | ".join(str(Counter(_as_judged(case) for case in each)[verdict]) for verdict in VERDICTS)
        rows.append(
            f"| {name} | {len(each)} | {patients} | {shown} | {alarms} ({alarms / len(each):.1%}) | {interval} |"
        )
    return "\n".join(rows)


def _as_judged(case: Judged) -> str:
    """The verdict, without what is true of the scan as it is."""
    return case.verdict if case.alarmed else "accept"


def _by_fault(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    found: dict[str, list[Judged]] = {}
    for case in judged:
        if case.expected:
            found.setdefault(case.what, []).append(case)
    return found


def _faults(judged: Sequence[Judged]) -> str:
    rows = ["| fault | scans | accept | warn | refuse | rightly named | most often |", "|---|---|---|---|---|---|---|"]
    for what, each in _by_fault(judged).items():
        counts = Counter(case.verdict for case in each)
        often = Counter(code for case in each for code in case.codes & case.expected)
        codes = ", ".join(f"`{code}` {count}" for code, count in often.most_common(2))
        named = sum(case.named for case in each)
        shown = " | ".join(str(counts[verdict]) for verdict in VERDICTS)
        rows.append(f"| {what} | {len(each)} | {shown} | {named} ({named / len(each):.0%}) | {codes} |")
    return "\n".join(rows)


def _draw(path: Path, faults: dict[str, list[Judged]]) -> None:
    """A bar a fault: rightly named and refused, rightly named and warned of, warned of for something else, accepted."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = {
        "refused": "#1b4965",
        "warned, rightly named": "#62a8c4",
        "warned, otherwise": "#f2c14e",
        "accepted": "#d1495b",
    }
    figure, axes = plt.subplots(figsize=(7.5, 0.2 * len(faults) + 1))
    for row, each in enumerate(faults.values()):
        counts, left = Counter(_kind(case) for case in each), 0.0
        for kind, colour in kinds.items():
            share = counts[kind] / len(each)
            axes.barh(row, share, left=left, color=colour, label=kind if row == 0 else None)
            left += share
    axes.set_yticks(range(len(faults)), [f"{what} ({len(each)})" for what, each in faults.items()], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the scans with this fault")
    axes.legend(ncols=4, fontsize=7, loc="lower center", bbox_to_anchor=(0.3, 1.0), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})


def _kind(case: Judged) -> str:
    if case.verdict == "refuse" and case.named:
        return "refused"
    if case.named:
        return "warned, rightly named"
    return "accepted" if case.verdict == "accept" else "warned, otherwise"
