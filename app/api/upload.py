"""A multipart form, straight from the connection to the folder of its job: no copy in memory, none elsewhere on disk.

The names of the files that were sent are not looked at, for they may name a patient.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.problems import Malformed
from app.errors import InvalidPrior, InvalidRequest, TooLarge
from app.jobs.deliveries import Destination
from app.jobs.job import Priority

#: What is collected before it is handed to a thread that writes it.
_BATCH_BYTES = 1024 * 1024
_FILES = ("file", "reference", "prior_labels")
_FIELDS = ("priority", "series_uid", "prior")
_MAX_FIELD_BYTES = 72
#: A UID or the end of one, as the list of several series shows it.
_UID = re.compile(r"…?([0-9.]{1,64})")
_JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Upload:
    """A form that has arrived; its files lie in the folder as `scan`, `reference`, `prior_labels`."""

    priority: Priority
    has_reference: bool
    #: sha256 over everything that was sent.
    fingerprint: str
    #: Which series of a zip; it is never logged.
    series_uid: str | None = field(default=None, repr=False)
    #: Where the DICOM results are sent.
    deliver_to: tuple[Destination, ...] = ()
    #: Whom to tell the end.
    webhook: str | None = field(default=None, repr=False)
    #: The job to compare with; or whether labels to compare with were sent.
    prior: str | None = None
    has_prior_labels: bool = False


def refuse_too_long(request: Request, max_bytes: int) -> None:
    """Raise TooLarge before a byte is read, if the length that is announced is too much already."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise TooLarge(f"The request has {announced} bytes; {max_bytes} are allowed.")


async def receive(request: Request, folder: Path, max_bytes: int) -> Upload:
    """Read the form into `folder`. Raises Malformed, InvalidRequest, TooLarge, OSError; the caller clears up."""
    form = FormWriter(_boundary(request), folder)
    batch = bytearray()
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                raise TooLarge(f"The request has more than the {max_bytes} bytes that are allowed.")
            batch += chunk
            if len(batch) >= _BATCH_BYTES:
                await run_in_threadpool(form.write, bytes(batch))
                batch.clear()
        await run_in_threadpool(form.write, bytes(batch))
        return form.finish()
    finally:
        form.close()


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Malformed("Send multipart/form-data with the scan as `file`.")
    return options[b"boundary"]


def job_id_of(text: str) -> str:
    """The id of a job as somebody wrote it. Raises InvalidPrior."""
    if not _JOB_ID.fullmatch(text):
        raise InvalidPrior("`prior` is the `id` of a finished job of this service: 32 hexadecimal digits.")
    return text


class FormWriter:
    """Writes the parts of a form as they come; everything blocks."""

    def __init__(self, boundary: bytes, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, str] = {}
        self._fields: dict[str, bytes] = {}
        self._header: tuple[bytes, bytes] = (b"", b"")
        self._name: str | None = None
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._complete = False
        try:
            self._parser = MultipartParser(boundary)
        except FormParserError as error:
            raise Malformed(f"The multipart boundary cannot be used: {error}.") from None
        callbacks = {
            "part_begin": self._on_begin,
            "header_field": self._on_header_name,
            "header_value": self._on_header_value,
            "header_end": self._on_header_end,
            "headers_finished": self._on_headers,
            "part_data": self._on_data,
            "part_end": self._on_end,
            "end": self._on_last,
        }
        for event, callback in callbacks.items():
            self._parser.set_callback(event, callback)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Malformed(f"The multipart body cannot be read: {error}.") from None

    def finish(self) -> Upload:
        """The form, if it is complete."""
        if not self._complete:
            raise Malformed("The multipart body ends in the middle.")
        if "file" not in self._digests:
            raise Malformed("The form has no `file`: send the scan under this name.")
        priority = self._fields.get("priority", b"routine").decode("latin-1")
        if priority not in list(Priority):
            raise InvalidRequest(f"`priority` is one of {', '.join(Priority)}.")
        series_uid = self._series_uid()
        prior = self._prior()
        sent = [self._digests["file"], self._digests.get("reference", ""), priority, series_uid or ""]
        # Only where there is one: keys that were used before there were any still recognise their repetition.
        sent += [each for each in (prior, self._digests.get("prior_labels")) if each]
        return Upload(
            Priority(priority),
            "reference" in self._digests,
            hashlib.sha256("\n".join(sent).encode()).hexdigest(),
            series_uid,
            prior=prior,
            has_prior_labels="prior_labels" in self._digests,
        )

    def close(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _series_uid(self) -> str | None:
        text = self._fields.get("series_uid", b"").decode("utf-8", "replace").strip()
        found = _UID.fullmatch(text)
        if text and not found:
            raise InvalidRequest("`series_uid` is a UID, digits and dots, or the end of one.")
        return found.group(1) if found else None

    def _prior(self) -> str | None:
        text = self._fields.get("prior", b"").decode("utf-8", "replace").strip()
        if text and "prior_labels" in self._digests:
            raise InvalidRequest("Send `prior`, a job, or `prior_labels`, a file, not both.")
        return job_id_of(text) if text else None

    def _on_begin(self) -> None:
        self._name = None
        self._header = (b"", b"")

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], b"")

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        self._header = (b"", b"")
        if name.lower() == b"content-disposition":
            self._name = parse_options_header(value)[1].get(b"name", b"").decode("latin-1")

    def _on_headers(self) -> None:
        name = self._name
        if name not in _FILES + _FIELDS:
            known = ", ".join(f"`{each}`" for each in _FILES + _FIELDS)
            raise InvalidRequest(f"The form takes {known}, and no other field.")
        if name in self._digests or name in self._fields:
            raise Malformed(f"The form has `{name}` twice.")
        if name in _FIELDS:
            self._fields[name] = b""
            return
        self._digest = hashlib.sha256()
        self._file = (self._folder / ("scan" if name == "file" else name)).open("xb")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            part = memoryview(data)[start:end]
            self._digest.update(part)
            self._file.write(part)
            return
        name = self._name or ""
        self._fields[name] += data[start:end]
        if len(self._fields[name]) > _MAX_FIELD_BYTES:
            raise InvalidRequest(f"`{name}` is too long.")

    def _on_end(self) -> None:
        if self._file is not None and self._name is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self.close()
            self._digests[self._name] = self._digest.hexdigest()

    def _on_last(self) -> None:
        self._complete = True
