"""The scan that another one is compared with: its labels are copied when the job is taken, so that nothing later,
not even the erasure of the earlier job, changes what is compared.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from app.api.parts import Parts
from app.api.upload import Upload
from app.errors import Gone, InputError, InvalidPrior, NotFound
from app.imaging.scan import probe_scan
from app.jobs.job import FINISHED, Job, Status
from app.jobs.results import PRIOR_LABELS, PRIOR_REPORT

_KEPT = "send its labels as `prior_labels`, if you kept them"


def keep_prior(parts: Parts, folder: Path, upload: Upload) -> None:
    """Bring the labels of the prior, and the report if it is a job, into the folder. Raises InvalidPrior."""
    if upload.prior is not None:
        _copy(parts, _finished(parts, upload.prior), folder)
    elif upload.has_prior_labels:
        try:
            probe_scan(folder / PRIOR_LABELS, parts.settings.limits())
        except InputError as error:
            raise InvalidPrior(f"`prior_labels` cannot be read. {error.detail}") from error


def _finished(parts: Parts, job_id: str) -> Job:
    try:
        job = parts.store.get(job_id)
    except NotFound:
        detail = f"This service has no job {job_id}: name one of its own, or {_KEPT}."
        raise InvalidPrior(detail, code="prior_not_found") from None
    if job.status is Status.EXPIRED:
        raise InvalidPrior(f"Job {job_id} is erased: {_KEPT}.", code="prior_gone")
    if job.published is None and job.status in FINISHED:
        detail = f"Job {job_id} has no results to compare with: it {_ENDED[job.status]}."
        raise InvalidPrior(detail, code="prior_without_results")
    if job.published is None:
        detail = f"Job {job_id} is still {job.status}: send this scan again once it has succeeded."
        raise InvalidPrior(detail, code="prior_not_finished")
    return job


_ENDED = {Status.FAILED: "has failed", Status.CANCELED: "was canceled"}


def _copy(parts: Parts, job: Job, folder: Path) -> None:
    try:
        for name, kept in (("labels.nii.gz", PRIOR_LABELS), ("report.json", PRIOR_REPORT)):
            shutil.copyfile(parts.files.result(job.id, job.published or 0, name), folder / kept)
    except (Gone, FileNotFoundError):
        raise InvalidPrior(f"Job {job.id} was erased just now: {_KEPT}.", code="prior_gone") from None
