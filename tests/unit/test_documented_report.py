"""The report that the docs show is one that the service could have sent: every field, no other, and sums that fit."""

import json
import re
from pathlib import Path

import pytest

from app.api.example import REPORT
from app.api.example_follow_up import FOLLOW_UP
from app.followup.result import FollowUp
from app.report import Report

DOCS = Path(__file__).parents[2] / "docs"


def fields(value):
    if isinstance(value, dict):
        return {name: fields(each) for name, each in value.items()}
    return [fields(each) for each in value if isinstance(each, dict)] if isinstance(value, list | tuple) else None


def test_the_example_has_exactly_the_fields_of_a_report():
    report = Report.model_validate(REPORT)
    assert fields(json.loads(report.model_dump_json())) == fields(REPORT)
    assert round(report.lesion_volume_ml, 2) == round(REPORT["lesion_volume_ml"], 2)
    assert len(report.agreement.lesion.reference_lesions) == report.agreement.lesion.by_lesion.reference_count


def test_the_page_on_http_shows_that_example():
    text = (DOCS / "http.md").read_text("utf-8")
    for heading, example in (("### A report", REPORT), ("### What changed", FOLLOW_UP)):
        block = re.search(heading + r".*?```json\n(.*?)```", text, re.DOTALL).group(1)
        assert json.loads(block) == example


def test_the_example_of_what_changed_is_one_that_could_have_been_sent():
    found = FollowUp.model_validate(FOLLOW_UP)
    assert fields(json.loads(found.model_dump_json())) == fields(FOLLOW_UP)
    assert {row.state for row in found.lesions} == {"grown", "new", "gone"}
    assert found.totals.lesions_ml.prior == pytest.approx(sum(row.volume_ml.prior for row in found.lesions), abs=0.01)


def test_every_number_of_a_follow_up_is_defined():
    text = (DOCS / "answers.md").read_text("utf-8")

    def names(value):
        if isinstance(value, dict):
            return {*value, *(name for each in value.values() for name in names(each))}
        return {name for each in value for name in names(each)} if isinstance(value, list) else set()

    of_files = {"id", "shape", "orientation", "spacing_mm", "lesion_count"}
    assert [name for name in sorted(names(FOLLOW_UP) - of_files) if f"`{name}`" not in text] == []


def test_every_number_of_a_lesion_and_of_the_agreement_is_defined():
    text = (DOCS / "answers.md").read_text("utf-8")
    agreement = REPORT["agreement"]
    names = {*REPORT["lesions"][0], *agreement["liver"], *agreement["lesion"]} - {"id"}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
