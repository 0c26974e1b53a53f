"""A test set as one page: the figures, the worst cases as pictures, a row a case. Its pictures lie beside it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from app.evaluation.score import DIFFERENCES_FILE, SHEET_FILE, Score
from app.evaluation.summary import Summary
from app.evaluation.tables import DETECTION_HEAD, METRIC_HEAD, counted, detection_rows, metric_rows, number, remarks
from app.sheet import NOTICE

#: Of liver and of lesions, how many of the worst cases are shown.
WORST = 5

_STYLE = """
body { font: 13px/1.4 system-ui, "Segoe UI", Roboto, sans-serif; color: #16202a; max-width: 1180px; margin: 0 auto;
  padding: 16px; font-variant-numeric: tabular-nums }
h1 { font-size: 20px; border-bottom: 2px solid #0b7285 } h2 { font-size: 14px; color: #51606e; margin: 20px 0 4px }
table { border-collapse: collapse; width: 100% } th { color: #51606e; font-weight: 600 }
th, td { padding: 2px 8px; border-bottom: 1px solid #e4eaee; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere }
figure { margin: 12px 0; break-inside: avoid } img { max-width: 100% } .small { color: #51606e }
footer { margin-top: 16px; border-top: 1px solid #d5dde3; padding-top: 5px; font-weight: 600 }
"""
_CASE_HEAD = ("case", "status", "liver Dice", "HD95 mm", "volume error %", "lesion Dice", "found", "false", "sheet")


def evaluation_page(summary: Summary, scores: Sequence[Score], folder: Path) -> str:
    """The page, to be kept in `folder`, below which the cases' own folders are."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hepaseg evaluation</title><style>{_STYLE}</style></head><body>
<h1>Evaluation of {summary.cases} cases</h1>
<p>{counted(summary)}</p>
<h2>Liver</h2>{_table(METRIC_HEAD, metric_rows(summary.liver))}
<h2>Lesions, where the reference has any</h2>{_table(METRIC_HEAD, metric_rows(summary.lesion))}
{"".join(f"<h2>{_text(rule)}</h2>{_table(DETECTION_HEAD, rows)}" for rule, rows in detection_rows(summary))}
{"".join(f"<p>{_text(remark)}</p>" for remark in remarks(summary))}
<h2>Worst cases</h2><p class="small">Blue is missed, yellow is too much.</p>{_pictures(scores, folder)}
<h2>Cases</h2>{_cases(scores, folder)}
<footer>{NOTICE}</footer></body></html>
"""


def worst(scores: Sequence[Score]) -> list[tuple[str, Score]]:
    """The cases of least liver Dice, then of least lesion Dice where the reference has a lesion; each with its Dice."""
    found = [(score, score.agreement) for score in scores if score.agreement is not None]
    livers = sorted((a.liver.dice, s.name, s) for s, a in found if a.liver.reference_voxels)[:WORST]
    lesions = sorted((a.lesion.dice, s.name, s) for s, a in found if a.lesion.reference_voxels)[:WORST]
    return [(f"liver Dice {dice:.3f}", score) for dice, _, score in livers] + [
        (f"lesion Dice {dice:.3f}", score) for dice, _, score in lesions
    ]


def _pictures(scores: Sequence[Score], folder: Path) -> str:
    return "".join(
        f'<figure><figcaption>{_text(score.name)}: {why}</figcaption><img loading="lazy" alt="Differences of '
        f'{_text(score.name)}" src="{quote(f"cases/{score.name}/{DIFFERENCES_FILE}")}"></figure>'
        for why, score in worst(scores)
        if (folder / "cases" / score.name / DIFFERENCES_FILE).exists()
    )


def _cases(scores: Sequence[Score], folder: Path) -> str:
    head = "".join(f"<th>{name}</th>" for name in _CASE_HEAD)
    return f"<table><tr>{head}</tr>{''.join(_case(score, folder) for score in scores)}</table>"


def _case(score: Score, folder: Path) -> str:
    cells = [score.name, score.status if score.code is None else f"{score.status}: {score.code}"]
    if score.agreement is None:
        cells += ["–"] * 6
    else:
        liver, lesion = score.agreement.liver, score.agreement.lesion
        matches = lesion.by_lesion
        cells += [
            number(liver.dice),
            number(liver.hd95_mm, 1),
            number(liver.volume_error_percent, 1),
            number(lesion.dice),
        ]
        cells += [f"{matches.found_count} of {matches.reference_count}"]
        cells += [f"{matches.predicted_count - matches.true_count} of {matches.predicted_count}"]
    path = f"cases/{score.name}/{SHEET_FILE}"
    link = f'<a href="{quote(path)}">sheet</a>' if (folder / path).exists() else "–"
    return "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + f"<td>{link}</td></tr>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{body}</table>"


def _text(value: object) -> str:
    return html.escape(str(value))
