"""One page over many scans: a row for each, with a link to its sheet."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from app.imaging.atomic import write_text
from app.sheet import NOTICE, PAGE_STYLE

Row = Mapping[str, object]

#: What a column is called, and how its numbers are written.
_COLUMNS = {
    "liver_ml": ("Liver ml", "{:.0f}"),
    "lesion_count": ("Lesions", "{}"),
    "lesion_ml": ("Lesions ml", "{:.2f}"),
    "liver_dice": ("Liver Dice", "{:.3f}"),
    "lesion_dice": ("Lesion Dice", "{:.3f}"),
    "lesions_found": ("Found", "{}"),
    "lesions_in_reference": ("In reference", "{}"),
    "false_marks": ("False marks", "{}"),
}


def write_overview(path: Path, rows: Sequence[Row]) -> None:
    """Write the page over `rows` (those of summary.json), whose folders lie beside `path`. Raises OSError."""
    columns = [name for name in _COLUMNS if any(name in row for row in rows)]
    head = "".join(f"<th>{title}</th>" for title in ("Scan", *(_COLUMNS[name][0] for name in columns), "Remarks"))
    body = "\n".join(f"<tr>{_cells(row, columns)}</tr>" for row in rows)
    failed = sum(row["status"] != "succeeded" for row in rows)
    write_text(
        path,
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hepaseg summary</title><style>{PAGE_STYLE}</style></head><body>
<header><h1><span>Hepaseg</span> summary</h1><span class="small">{len(rows)} scans, {failed} failed</span></header>
<table class="scans"><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
<footer>{NOTICE}</footer>
</body></html>
""",
    )


def _cells(row: Row, columns: Sequence[str]) -> str:
    name = html.escape(str(row["name"]))
    if row["status"] != "succeeded":
        return f'<td>{name}</td><td class="said" colspan="{len(columns) + 1}">{html.escape(str(row["detail"]))}</td>'
    link = f'<td><a href="{quote(str(row["name"]))}/sheet.html">{name}</a></td>'
    numbers = "".join(f"<td>{_number(row.get(column), _COLUMNS[column][1])}</td>" for column in columns)
    return f'{link}{numbers}<td class="said">{"look closely" if row["verdict"] == "warn" else ""}</td>'


def _number(value: object, how: str) -> str:
    return "–" if value is None else how.format(value)
