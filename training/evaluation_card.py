"""models/README.md and the metrics in the files' own cards, generated from an evaluation; nobody types a number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.imaging.atomic import write_text
from app.inference.manifest import Networks, load_networks
from app.inference.network import ModelCard, Runtime
from training.export import recarded
from training.judge import Results, training_of
from training.manifest import registered, sha256_of
from training.markdown import table
from training.provenance import SOURCES, lesions_in_words
from training.refinement_card import refinement_part

LITS_LICENCE = """LiTS (as Medical Segmentation Decathlon Task03): CC BY-SA 4.0, and so are weights trained on it.
Chest slices from TCIA collections: CC BY. Phantoms: this project's own."""

INTENDED = """Research, and as a first draft for a radiologist who reviews every result: adult abdominal CT.
Not a medical device. Not for children, after
liver transplantation or large resection, for MR, or without review."""


PAINTED = """In {slices} slices, through the whole cascade; mean Dice of a slice: {dice}. A lesion is found if a quarter
of it is marked; a mark is right if it touches a painted lesion, and counts in the class of its own size. Livers of
archives hold real lesions that nobody labelled: precision is a lower bound."""


@dataclass(frozen=True)
class Column:
    """One folder of networks: what its columns are called, its scores, its files' cards by task."""

    title: str
    results: Results
    cards: dict[str, ModelCard]

    @classmethod
    def of(cls, networks: Networks, results: Results) -> Column:
        """The column of a folder, called by the recipe of its liver network."""
        card = networks.liver.card
        title = f"{card.name.rsplit('-', 1)[-1]} {card.version}"
        return cls(title, results, {network.card.task: network.card for network in networks})


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _summary_rows(columns: Sequence[Column], task: str) -> list[list[str]]:
    """Mean, interval, median, worst of every column; nothing where nothing was scored."""
    found = [column.results[f"{task}_summary"] for column in columns]
    if any(summary is None for summary in found):
        return []
    everything = [column.results[f"{task}_dice_of_all_voxels"] for column in columns]
    return [
        [f"**mean of {found[0]['cases']}**", *(f"**{s['mean']:.3f}**" for s in found)],
        ["95 % interval of the mean", *(f"{s['interval'][0]:.3f} to {s['interval'][1]:.3f}" for s in found)],
        ["median", *(_number(s["median"]) for s in found)],
        ["worst", *(f"{s['worst']:.3f} ({s['worst_case']})" for s in found)],
        ["all voxels together", *(_number(value) for value in everything)],
    ]


def liver_part(columns: Sequence[Column]) -> list[str]:
    """The liver's tables."""
    first = columns[0].results
    rows = [[f"{name} (whole volume)", *(_number(c.results["volumes"][name]["liver"]) for c in columns)]
            for name in first["volumes"]]  # fmt: skip
    rows += [[f"{name} (its slices)", *(_number(c.results["liver_patients"][name]) for c in columns)]
             for name in first["liver_patients"]]  # fmt: skip
    parts = [table(["Dice, patients kept out", *(c.title for c in columns)], rows + _summary_rows(columns, "liver"))]
    surfaces = [
        [name, _number(s["liver"]), _number(s["liver_without_crf"]), _number(a["voe"]), _number(a["rvd"]),
         _number(a["assd_mm"], 2), _number(a["hd95_mm"], 1)]
        for name, s in first["volumes"].items() for a in [s["liver_agreement"]]
    ]  # fmt: skip
    if surfaces:
        header = ["whole volumes", "Dice", "without CRF", "VOE", "RVD", "ASSD mm", "HD95 mm"]
        parts += [f"{columns[0].title}; distances are as true as the spacing in the files:", table(header, surfaces)]
    empty = [
        [name, *(f"{left} of {count}" for c in columns for left, count in [c.results["slices_without_liver"][name]])]
        for name in first["slices_without_liver"]
    ]
    if empty:
        parts += [table(["slices without liver left without a liver voxel", *(c.title for c in columns)], empty)]
    return parts


def lesion_part(columns: Sequence[Column]) -> list[str]:
    """The lesions' tables: real ones of patients kept out, then painted ones by size."""
    parts = []
    with_lesions = [name for name, s in columns[0].results["volumes"].items() if "lesion" in s]
    if with_lesions:
        header = ["patients kept out"]
        for column in columns:
            header += [f"{column.title}: Dice", "found", "false marks"]
        rows = []
        for name in with_lesions:
            scores = [column.results["volumes"][name] for column in columns]
            cells = [
                [_number(s["lesion"]), f"{s['lesions_found']} of {s['lesions']}", str(s["false_marks"])] for s in scores
            ]
            rows.append([name, *(cell for three in cells for cell in three)])
        parts += [table(header, rows)]
        dice = ["Dice, patients kept out", *(c.title for c in columns)]
        parts += [table(dice, _summary_rows(columns, "lesion"))]
    return parts + painted_part(columns)


def painted_part(columns: Sequence[Column]) -> list[str]:
    """Recall, precision and F1 on painted lesions by size."""
    painted = [column.results["painted"] for column in columns]
    if any(result is None for result in painted):
        return ["No synthetic lesions: no liver of a patient kept out was large enough."]
    header = ["synthetic lesions in kept-out livers", "painted"]
    for column in columns:
        header += [f"{column.title}: recall", "precision", "F1"]
    rows = []
    for size in (*painted[0]["by_size"], "all sizes"):
        rates = [result["by_size"].get(size, result["all sizes"]) for result in painted]
        row = [size, str(rates[0]["painted"])]
        for rate in rates:
            row += [f"{_share(rate['recall'])} ({rate['found']})"]
            row += [f"{_share(rate['precision'])} ({rate['true_marks']} of {rate['marks']})", _number(rate["f1"], 2)]
        rows.append(row)
    dice = ", ".join(f"{c.title} {p['slice_dice_mean']:.3f}" for c, p in zip(columns, painted, strict=True))
    return [table(header, rows), PAINTED.format(slices=painted[0]["slices"], dice=dice)]


def training_part(columns: Sequence[Column]) -> list[str]:
    """What each network learnt from and how long, and who was kept out."""
    lines = [
        f"- {task} {c.cards[task].version} ({c.title}): {c.cards[task].trained_on}"
        for c in columns for task in ("liver", "lesion")
    ]  # fmt: skip
    first = columns[0].results
    counts = ", ".join(f"{count} ({SOURCES.get(name, name)})" for name, count in first["kept_out"].items())
    kept = f"Split by patient over all sources. Patients kept out of every training: {counts}."
    if first["kept_out_patients"]:
        kept += f" Of public data these are {', '.join(first['kept_out_patients'])}."
    return ["\n".join(lines), kept]


def limits(column: Column) -> str:
    """What the networks cannot do, as far as their cards tell."""
    data = training_of(column.cards["lesion"]).get("data")
    sources = set(training_of(column.cards["liver"]).get("data", {}).get("sources", {"lits": {}}))
    with_lesions = sum("lesion" in scores for scores in column.results["volumes"].values())
    lines = [
        f"- The liver network sees: {column.cards['liver'].preprocessing}. What lies outside the window is invisible.",
        "- The liver network judges a slice alone: its neighbours correct it through largest component and CRF only.",
        "- A dark lesion at the edge may be left out of the liver, and the lesion network never sees it then.",
        f"- The lesion network learnt {lesions_in_words(data)}." if data else "",
        f"- It was scored on {with_lesions} kept-out patients with labelled lesions: treat marks as hints.",
        "- Most training livers are portal-venous and come from LiTS." if sources & {"lits", "spread"} else "",
        "- Slices must be axial, in the order and orientation that the service gives them (LPS).",
    ]  # fmt: skip
    return "\n".join(line for line in lines if line)


def licences(column: Column) -> str:
    """The files' licences, and where they come from."""
    stated = ", ".join(f"{task} {card.licence}" for task, card in column.cards.items())
    sources = set(training_of(column.cards["liver"]).get("data", {}).get("sources", {"lits": {}}))
    return f"As the files state: {stated}." + (f" {LITS_LICENCE}" if sources & {"lits", "spread", "negative"} else "")


def card_text(columns: Sequence[Column], files: dict[str, Any]) -> str:
    """models/README.md."""
    listed = list(files.items())
    listed += [(f"{task}, in 8-bit integers", entry["int8"]) for task, entry in files.items() if "int8" in entry]
    names = "\n".join(f"- `{entry['file']}` ({what}), sha256 `{entry['sha256']}`" for what, entry in listed)
    phantoms = [
        [name, *(_number(c.results["phantoms"][name].get(task)) for c in columns for task in ("liver", "lesion"))]
        for name in columns[0].results["phantoms"]
    ]
    header = ["Dice", *(f"{c.title}: {task}" for c in columns for task in ("liver", "lesion"))]
    parts = [
        "# The networks",
        "Generated by `python -m training evaluate`; the files are what is scored, through the service's own cascade.",
        names,
        "## Training data", *training_part(columns),
        "## Liver", *liver_part(columns),
        "## Lesions", *lesion_part(columns),
        "## Refinement", *refinement_part(columns[0].results["volumes"], columns[0].cards["crf"]),
        "## Phantoms never trained on", table(header, phantoms),
        "## Limits", limits(columns[0]), "## Intended use", INTENDED, "## Licence", licences(columns[0]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def write_cards(models_dir: Path, results: Results, beside: Path | None = None) -> None:
    """Put the metrics into the files' cards, register the new hashes, and write README.md."""
    recarded(models_dir, "liver", {"metrics": json.dumps({"dice": results["liver_summary"]})})
    liver = sha256_of(models_dir / registered(models_dir)["liver"]["file"])
    metrics = json.dumps({"dice": results["lesion_summary"], "painted": results["painted"]})
    recarded(models_dir, "lesion", {"metrics": metrics, "trained_with": liver})
    columns = [Column.of(load_networks(models_dir, Runtime()), results)]
    if beside is not None:
        columns.append(Column.of(load_networks(beside, Runtime()), results["beside"]))
    write_text(models_dir / "README.md", card_text(columns, registered(models_dir)))
