"""DICOMweb with the one server that HEPASEG_DICOMWEB_URL names: a series by WADO-RS, results by STOW-RS.

No other address is ever called: redirections, and addresses within answers, are not followed.
"""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import httpx2 as httpx
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.dicom.peers import NotDelivered, sop_uids
from app.errors import InvalidRequest, PeerFailed, TooLarge
from app.imaging.dicom_header import silence

# They log the address of each request, which names study and series.
for _library in ("httpx", "httpx2", "httpcore", "httpcore2"):
    silence(_library)

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_FAILED, _STORED, _REASON, _INSTANCE = "00081198", "00081199", "00081197", "00081155"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class DicomWeb:
    """A DICOMweb server. url: its root, such as https://pacs/dicom-web; user and password may stand in it."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def fetch(self, study_uid: str, series_uid: str, path: Path, max_bytes: int) -> None:
        """Bring a series as a zip to `path`, piece by piece.

        Raises InvalidRequest if the server has no such series, TooLarge, PeerFailed, OSError.
        """
        address = f"{self._url}/studies/{study_uid}/series/{series_uid}"
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        with _client() as client, _speaking(), client.stream("GET", address, headers=accept) as answer:
            if answer.status_code in (204, 404):
                raise InvalidRequest("The DICOMweb server has no such series.", code="unknown_series")
            if answer.status_code != 200:
                raise PeerFailed(f"The DICOMweb server answered with status {answer.status_code}.")
            kind, options = parse_options_header(answer.headers.get("content-type"))
            if kind != b"multipart/related" or not options.get(b"boundary"):
                raise PeerFailed("The DICOMweb server did not answer with multipart/related.")
            with (
                zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
                closing(_Parts(options[b"boundary"], archive)) as parts,
            ):
                received = 0
                for piece in answer.iter_bytes():
                    received += len(piece)
                    if received > max_bytes:
                        raise TooLarge(f"The series has more than the {max_bytes} bytes that are allowed.")
                    parts.write(piece)
                parts.finish()

    def send(self, content: bytes) -> None:
        """Have the server store one DICOM file. Raises NotDelivered unless it says that it has it."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        body = head + content + f"\r\n--{boundary}--\r\n".encode()
        try:
            with _client() as client:
                answer = client.post(f"{self._url}/studies", content=body, headers=headers)
        except httpx.HTTPError:
            raise NotDelivered("unreachable") from None
        _require_stored(answer, sop_uids(content)[1])


def _require_stored(answer: httpx.Response, instance_uid: str) -> None:
    """Whatever the status says: the instance must be among those that the server says it stored."""
    if answer.status_code not in (200, 202, 409):
        raise NotDelivered(f"http_{answer.status_code}")
    try:
        said = json.loads(answer.content)
        said = said[0] if isinstance(said, list) else said
        failed = [item.get(_REASON, {}).get("Value", [0])[0] for item in _items(said, _FAILED)]
        stored = [item.get(_INSTANCE, {}).get("Value", [""])[0] for item in _items(said, _STORED)]
        reason = f"refused_{int(failed[0]):04x}" if failed else ""
    except (ValueError, TypeError, AttributeError, LookupError):
        raise NotDelivered("answer_not_understood") from None
    if reason or instance_uid not in stored:
        raise NotDelivered(reason or "not_confirmed")


def _items(said: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = said.get(tag, {}).get("Value", [])
    return found


def _client() -> httpx.Client:
    return httpx.Client(timeout=_TIMEOUT, follow_redirects=False, trust_env=False)


@contextmanager
def _speaking() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise PeerFailed(f"The DICOMweb server does not answer ({type(error).__name__}).") from None
    except FormParserError:
        raise PeerFailed("The DICOMweb server's answer cannot be read.") from None


class _Parts:
    """Writes each part of a multipart body as a member of a zip."""

    def __init__(self, boundary: bytes, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._count = 0
        self._complete = False
        self._member: IO[bytes] | None = None
        self._parser = MultipartParser(boundary)
        callbacks = {
            "part_begin": self._begin,
            "part_data": self._write,
            "part_end": self._end,
            "end": self._last,
        }
        for event, callback in callbacks.items():
            self._parser.set_callback(event, callback)  # type: ignore[arg-type]

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._parser.write(piece)

    def finish(self) -> None:
        """Raise PeerFailed unless all parts have come."""
        if not self._complete:
            raise PeerFailed("The DICOMweb server's answer ends in the middle.")

    def close(self) -> None:
        """Close the member that is open: before it is, its archive cannot be closed."""
        if self._member is not None:
            self._member.close()
            self._member = None

    def _begin(self) -> None:
        self._member = self._archive.open(zipfile.ZipInfo(f"{self._count:05}", _ZIP_TIME), "w")
        self._count += 1

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._member is not None:
            self._member.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self.close()

    def _last(self) -> None:
        self._complete = True
