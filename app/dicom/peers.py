"""A peer that takes DICOM files one by one."""

from __future__ import annotations

import io
from typing import Protocol

from pydicom import dcmread


class NotDelivered(Exception):
    """The peer has not accepted it; `code` says why, for logs and clients: short, and without a word about anybody."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Peer(Protocol):
    """Where results are sent."""

    def send(self, content: bytes) -> None:
        """Have it store one DICOM file. Raises NotDelivered unless it says that it has."""


def sop_uids(content: bytes) -> tuple[str, str]:
    """SOP class and instance of a DICOM file."""
    header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    return str(header.SOPClassUID), str(header.SOPInstanceUID)
