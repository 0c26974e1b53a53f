from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from pydantic import ValidationError

from app.errors import Conflict
from app.jobs.job import FINISHED, INTERNAL_ERROR, TRANSITIONS, Job, Notice, Priority, Status

NOW = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)

#: What a job of each status must have.
PROPER = {
    Status.QUEUED: {},
    Status.RUNNING: {"owner": "w", "lease_until": NOW},
    Status.SUCCEEDED: {"published": 1, "completed_at": NOW},
    Status.FAILED: {"error": INTERNAL_ERROR, "completed_at": NOW},
    Status.CANCELED: {"completed_at": NOW},
    Status.EXPIRED: {"completed_at": NOW},
}
#: What a change to that status must bring along.
BRINGS = {
    Status.RUNNING: PROPER[Status.RUNNING],
    Status.SUCCEEDED: {"published": 1},
    Status.FAILED: {"error": INTERNAL_ERROR},
    Status.EXPIRED: {"error": None, "published": None},
}

#: Written a second time, by hand, against a slip in the table.
ALLOWED = {
    ("queued", "running"),
    ("queued", "canceled"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "canceled"),
    ("succeeded", "expired"),
    ("failed", "expired"),
    ("canceled", "expired"),
}


def job_in(status: Status) -> Job:
    return Job(id="a", created_at=NOW, due_at=NOW, status=status, **PROPER[status])


@pytest.mark.parametrize(("before", "after"), list(product(Status, Status)))
def test_a_job_moves_only_as_the_table_says(before: Status, after: Status):
    job = job_in(before)
    if (before, after) in ALLOWED:
        moved = job.moved_to(after, NOW, **BRINGS.get(after, {}))
        assert moved.status is after
        assert moved.revision == job.revision + 1
    else:
        with pytest.raises(Conflict):
            job.moved_to(after, NOW, **BRINGS.get(after, {}))


def test_the_table_speaks_of_every_status():
    assert set(TRANSITIONS) == set(Status)
    assert {status for status in Status if TRANSITIONS[status] == {Status.EXPIRED}} == FINISHED


@pytest.mark.parametrize("status", Status)
def test_an_error_is_there_if_and_only_if_the_job_failed(status: Status):
    given = {**PROPER[status], "error": None if status is Status.FAILED else INTERNAL_ERROR}
    with pytest.raises(ValidationError, match="error"):
        Job(id="a", created_at=NOW, due_at=NOW, status=status, **given)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.SUCCEEDED])
def test_only_a_succeeded_job_has_results(status: Status):
    with pytest.raises(ValidationError, match="results"):
        Job(id="a", created_at=NOW, due_at=NOW, status=status, **{**PROPER[status], "published": 1})


def test_times_without_a_zone_are_refused():
    with pytest.raises(ValidationError, match="timezone"):
        Job(id="a", created_at=datetime(2026, 1, 1), due_at=NOW)  # noqa: DTZ001 - the point of the test


def test_a_job_that_leaves_its_worker_has_no_owner_and_no_lease():
    back = job_in(Status.RUNNING).moved_to(Status.QUEUED, NOW)
    assert (back.owner, back.lease_until, back.completed_at) == (None, None, None)


@pytest.mark.parametrize("status", Status)
def test_an_erased_job_keeps_nothing_but_its_id_and_times(status: Status):
    job = job_in(status).changed(
        idempotency_key="key", fingerprint="f", voxels=9, warnings=(Notice(code="c", detail="d"),)
    )
    if status is Status.EXPIRED:
        assert job.erased(NOW) == job
        return
    erased = job.erased(NOW + timedelta(hours=1))
    assert erased.status is Status.EXPIRED
    left = {erased.idempotency_key, erased.fingerprint, erased.error, erased.published, erased.owner}
    assert (left, erased.voxels, erased.warnings) == ({None}, 0, ())


def test_priorities_are_one_step_apart():
    assert [priority.steps for priority in (Priority.ROUTINE, Priority.URGENT, Priority.STAT)] == [0, 1, 2]
