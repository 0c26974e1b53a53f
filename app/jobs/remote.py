"""The files of jobs in an S3 store, for machines that share no disk; what lies on the local disk is passing through.

Same keys as the folders of `JobFiles`. An attempt is uploaded when it is sealed and published by the row, as ever.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import Gone, InvalidRequest, StorageUnreachable
from app.jobs.results import NAMES, PRIOR_LABELS, PRIOR_REPORT, JobFiles

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

#: How long a request is tried again before the store counts as out of reach.
_RETRY: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}
_CLIENT: ClientConfig = {"connect_timeout": "5s", "timeout": "600s"}
#: A copy that an answer is sent from is removed after this time.
_BORROWED_S = 60.0


class RemoteFiles(JobFiles):
    """The files below an address s3://bucket/prefix; credentials and endpoint come from the usual AWS_ variables.

    lend: copies are made for answers of the HTTP process, which does not say when it needs them no more, and are
    removed by themselves. Else they lie in the folder of the job until `release`. Raises StorageUnreachable anywhere.
    """

    def __init__(self, root: Path, address: str, *, lend: bool = False) -> None:
        super().__init__(root)
        self._lend = lend
        self._borrowed = root / "borrowed"
        self._borrowed.mkdir(exist_ok=True)
        self._store = _open(address)

    def scan(self, job_id: str) -> Path:
        """A copy of the CT as it came; raises Gone if it is erased."""
        return self._fetch(f"jobs/{job_id}/scan")

    def reference(self, job_id: str) -> Path | None:
        """A copy of the reference as it came, if one came."""
        return self._if_there(f"jobs/{job_id}/reference")

    def prior(self, job_id: str) -> Path | None:
        """A copy of the labels of the scan to compare with, if there is one."""
        return self._if_there(f"jobs/{job_id}/{PRIOR_LABELS}")

    def prior_report(self, job_id: str) -> Path | None:
        """A copy of the report of that scan, if it was a job."""
        return self._if_there(f"jobs/{job_id}/{PRIOR_REPORT}")

    def series_uid(self, job_id: str) -> str | None:
        """Which series of the zip was asked for, if one was."""
        import obstore

        try:
            with _reaching():
                return bytes(obstore.get(self._store, f"jobs/{job_id}/series_uid").bytes()).decode()
        except Gone:
            return None

    def seal(self, folder: Path) -> None:
        """Upload the files of a folder, so that a row may speak of them."""
        import obstore

        for path in folder.iterdir():
            if path.is_file():
                with _reaching():
                    obstore.put(self._store, path.relative_to(self.root).as_posix(), path)

    def attempt(self, job_id: str, attempt: int) -> Path:
        """An empty local folder for the results of an attempt; what earlier attempts left is removed."""
        (self.root / "jobs" / job_id).mkdir(mode=0o700, exist_ok=True)
        for key in self._keys(f"jobs/{job_id}/attempts"):
            if int(key.split("/")[3]) < attempt:
                self._delete([key])
        return super().attempt(job_id, attempt)

    def discard(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt wrote."""
        super().discard(job_id, attempt)
        self._delete(self._keys(f"jobs/{job_id}/attempts/{attempt}"))

    def result(self, job_id: str, attempt: int, name: str) -> Path:
        """A copy of a file of a published attempt; raises Gone if it was erased meanwhile."""
        if name not in NAMES:
            raise Gone("The results of this job are erased.")
        return self._fetch(f"jobs/{job_id}/attempts/{attempt}/{name}")

    def names(self, job_id: str, attempt: int) -> set[str]:
        """The files of a published attempt."""
        return {key.rpartition("/")[2] for key in self._keys(f"jobs/{job_id}/attempts/{attempt}")}

    def erase(self, job_id: str) -> None:
        """Remove every byte of a job, here and in the store."""
        super().erase(job_id)
        self._delete(self._keys(f"jobs/{job_id}"))

    def release(self, job_id: str) -> None:
        """Remove the local copies."""
        super().erase(job_id)

    def sweep(self, keep: Callable[[str], bool], older_than_s: float = 3600.0) -> None:
        """Remove what interrupted uploads and erasures left, here and in the store."""
        super().sweep(lambda _: False, older_than_s)
        for path in self._borrowed.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - older_than_s:
                    path.unlink()
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        kept: dict[str, bool] = {}
        for found in self._objects("jobs"):
            job_id = found["path"].split("/")[1]
            if job_id not in kept:
                kept[job_id] = keep(job_id)
            if not kept[job_id] and found["last_modified"] < before:
                self._delete([found["path"]])

    def _if_there(self, key: str) -> Path | None:
        try:
            return self._fetch(key)
        except Gone:
            return None

    def _fetch(self, key: str) -> Path:
        path = self._borrowed / secrets.token_hex(8) if self._lend else self.root / key
        if path.exists():
            return path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        half = path.with_name(f"{path.name}.part")
        try:
            self._download(key, half)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
        half.rename(path)
        if self._lend:
            # An answer that is on its way has the file open and is not disturbed.
            remove = threading.Timer(_BORROWED_S, path.unlink, kwargs={"missing_ok": True})
            remove.daemon = True
            remove.start()
        return path

    def _download(self, key: str, path: Path) -> None:
        import obstore

        with _reaching(), path.open("wb") as file:
            answer = obstore.get(self._store, key)
            for chunk in answer.stream(min_chunk_size=4 * 1024 * 1024):
                file.write(chunk)
            if file.tell() != answer.meta["size"]:
                raise StorageUnreachable("The store broke off in the middle of a file.")

    def _keys(self, prefix: str) -> list[str]:
        return [found["path"] for found in self._objects(prefix)]

    def _objects(self, prefix: str) -> list[Any]:
        import obstore

        with _reaching():
            return [found for batch in obstore.list(self._store, prefix) for found in batch]

    def _delete(self, keys: list[str]) -> None:
        import obstore

        if keys:
            with _reaching():
                obstore.delete(self._store, keys)


def _open(address: str) -> Any:  # noqa: ANN401 - obstore's stores have no common type
    try:
        from obstore.store import S3Store
    except ModuleNotFoundError as error:
        raise InvalidRequest(f"An S3 store needs `pip install hepaseg[cluster]` ({error}).") from None
    # Whoever writes http:// into the endpoint means it: a store in the same rack.
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return S3Store.from_url(address, client_options={**_CLIENT, "allow_http": plain}, retry_config=_RETRY)


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    """Says in our words what went wrong with the store."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise Gone("The files of this job are erased.") from None
    except BaseError as error:
        raise StorageUnreachable("The store of scans and results cannot be reached.") from error
