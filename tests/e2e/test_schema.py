"""Schemathesis reads the documentation and sends what it allows and what it does not: no answer may be undocumented."""

import itertools

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from service import Service

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 12


def test_every_answer_is_one_that_the_documentation_names(service: Service, scan: bytes):
    document = schemathesis.openapi.from_asgi("/openapi.json", service.client.app)
    sent = [service.send(scan).json()["id"] for _ in range(8)]
    known = itertools.cycle(sent)
    tried = 0
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case) -> None:
            nonlocal tried
            tried += 1
            if "job_id" in case.path_parameters and tried % 2:
                case.path_parameters["job_id"] = next(known)
            case.call_and_validate(checks=CHECKS)

        check()
    assert tried > 100
