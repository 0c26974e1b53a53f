"""The files of jobs on a local disk: what was sent, and what each attempt wrote.

jobs/<id>/scan, reference             as they came; the sender's file names are never kept
jobs/<id>/prior_labels, prior_report  of the scan to compare with: sent, or copied from its job when this one was taken
jobs/<id>/series_uid                  which series of a zip, if that was said
jobs/<id>/attempts/<n>/labels.nii.gz  ... one folder an attempt; the database says which one is published
trash/                                on its way out: a rename takes a folder away at once, whoever writes into it
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from app.errors import Gone, InvalidRequest
from app.settings import Settings

#: The files that a published attempt holds.
RESULT_NAMES = ("labels.nii.gz", "liver.nii.gz", "lesions.nii.gz", "report.json", "preview.png")
#: What it holds besides if a DICOM series was sent; the last only if HEPASEG_RTSTRUCT wants it.
DICOM_NAMES = ("scan.nii.gz", "seg.dcm", "sr.dcm", "rtstruct.dcm")
#: What it holds besides since there are receipts.
RECEIPT_NAME = "receipt.json"
NAMES = (*RESULT_NAMES, *DICOM_NAMES, RECEIPT_NAME)
#: What a job keeps of the scan that it is compared with.
PRIOR_LABELS, PRIOR_REPORT = "prior_labels", "prior_report"


class JobFiles:
    """The folders of all jobs under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._jobs = root / "jobs"
        self._trash = root / "trash"
        for folder in (self._jobs, self._trash):
            folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def of(settings: Settings, *, lend: bool = False) -> JobFiles:
        """The files where `settings` say; see `RemoteFiles` for `lend`. Raises InvalidRequest."""
        address = settings.storage_url
        if address.startswith("s3://"):
            from app.jobs.remote import RemoteFiles

            return RemoteFiles(settings.data_dir, address, lend=lend)
        if "://" in address and not address.startswith("file:///"):
            raise InvalidRequest("HEPASEG_STORAGE_URL is s3://bucket/prefix, a path or empty.")
        path = Path(address.removeprefix("file://")).expanduser().absolute()
        return JobFiles(path if address else settings.data_dir)

    def create(self, job_id: str) -> Path:
        """A new folder for what is sent."""
        folder = self._jobs / job_id
        folder.mkdir(mode=0o700)
        return folder

    def scan(self, job_id: str) -> Path:
        """The CT as it came."""
        return self._jobs / job_id / "scan"

    def reference(self, job_id: str) -> Path | None:
        """The reference as it came, if one came."""
        path = self._jobs / job_id / "reference"
        return path if path.exists() else None

    def prior(self, job_id: str) -> Path | None:
        """The labels of the scan to compare with, if there is one: this job's own copy."""
        path = self._jobs / job_id / PRIOR_LABELS
        return path if path.exists() else None

    def prior_report(self, job_id: str) -> Path | None:
        """The report of that scan, if it was a job."""
        path = self._jobs / job_id / PRIOR_REPORT
        return path if path.exists() else None

    def series_uid(self, job_id: str) -> str | None:
        """Which series of the zip was asked for, if one was."""
        path = self._jobs / job_id / "series_uid"
        return path.read_text() if path.exists() else None

    def seal(self, folder: Path) -> None:
        """Bring a folder, its files and its name to the disk, so that a row may speak of them."""
        for path in [*folder.iterdir(), folder, folder.parent]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def attempt(self, job_id: str, attempt: int) -> Path:
        """An empty folder for the results of an attempt; what earlier attempts left is removed."""
        attempts = self._jobs / job_id / "attempts"
        attempts.mkdir(exist_ok=True)  # fails, as it should, if the whole job was erased
        for earlier in attempts.iterdir():
            # Not a later one: who was stopped right after the claim may come here when all is published.
            if int(earlier.name) <= attempt:
                self._remove(earlier)
        folder = attempts / str(attempt)
        folder.mkdir()
        return folder

    def discard(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt wrote."""
        self._remove(self._jobs / job_id / "attempts" / str(attempt))

    def result(self, job_id: str, attempt: int, name: str) -> Path:
        """A file of a published attempt; raises Gone if it was erased meanwhile."""
        path = self._jobs / job_id / "attempts" / str(attempt) / name
        if name not in NAMES or not path.is_file():
            raise Gone("The results of this job are erased.")
        return path

    def names(self, job_id: str, attempt: int) -> set[str]:
        """The files of a published attempt; none if it was erased meanwhile."""
        folder = self._jobs / job_id / "attempts" / str(attempt)
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def erase(self, job_id: str) -> None:
        """Remove every byte of a job."""
        self._remove(self._jobs / job_id)

    def release(self, job_id: str) -> None:
        """Say that no copy is needed on this machine any more; here the files are no copies."""

    def sweep(self, keep: Callable[[str], bool], older_than_s: float = 3600.0) -> None:
        """Remove what interrupted uploads and erasures left: folders that `keep` does not know and nobody writes to."""
        for folder in self._trash.iterdir():
            shutil.rmtree(folder, ignore_errors=True)
        before = time.time() - older_than_s
        for folder in self._jobs.iterdir():
            if not keep(folder.name) and _last_change(folder) < before:
                self._remove(folder)

    def free_bytes(self) -> int:
        """Room left on the disk."""
        return shutil.disk_usage(self.root).free

    def _remove(self, folder: Path) -> None:
        out = self._trash / secrets.token_hex(8)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(out)
            shutil.rmtree(out)


def _last_change(folder: Path) -> float:
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)
