"""The report that the docs show is one that the service could have sent: every field, no other, and sums that fit."""

import json
import re
from pathlib import Path

from app.api.example import REPORT
from app.report import Report

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_has_exactly_the_fields_of_a_report():
    def fields(value):
        if isinstance(value, dict):
            return {name: fields(each) for name, each in value.items()}
        return [fields(each) for each in value if isinstance(each, dict)] if isinstance(value, list | tuple) else None

    report = Report.model_validate(REPORT)
    assert fields(json.loads(report.model_dump_json())) == fields(REPORT)
    assert round(report.lesion_volume_ml, 2) == round(REPORT["lesion_volume_ml"], 2)
    assert len(report.agreement.lesion.reference_lesions) == report.agreement.lesion.by_lesion.reference_count


def test_the_page_on_http_shows_that_example():
    text = (DOCS / "http.md").read_text("utf-8")
    block = re.search(r"### A report.*?```json\n(.*?)```", text, re.DOTALL).group(1)
    assert json.loads(block) == REPORT


def test_every_number_of_a_lesion_and_of_the_agreement_is_defined():
    text = (DOCS / "answers.md").read_text("utf-8")
    agreement = REPORT["agreement"]
    names = {*REPORT["lesions"][0], *agreement["liver"], *agreement["lesion"]} - {"id"}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
