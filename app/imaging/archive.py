"""A zip archive as it was sent: its members' bytes, one by one, in memory, with a bound on everything.

Nothing is ever unpacked to the disk, and no name in the archive is ever used as a path. Archives within the archive
are left closed.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from app.errors import CorruptFile, TooLarge, UnsupportedFormat

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")

MOST_MEMBERS = 10_000
#: A directory of as many members with long names is no larger; it is read in one piece, before any can be counted.
MOST_DIRECTORY_BYTES = 8 << 20
_PIECE_BYTES = 1 << 18
_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError, RuntimeError)


class _PiecesOnly(io.BufferedReader):
    """The file, which refuses to be read in larger pieces than a zip directory may be long."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > MOST_DIRECTORY_BYTES:
            raise TooLarge(f"The directory of the zip is longer than {MOST_DIRECTORY_BYTES} bytes.")
        return super().read(wanted)


class Archive:
    """The members of a zip that may be files of a scan, by number; `unsafe` counts those whose names climb out.

    Raises CorruptFile, TooLarge (too many members, or more than `max_bytes` declared) or UnsupportedFormat.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._zip = _opened(file)
        self._max_bytes = self._left = max_bytes
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        if len(infos) > MOST_MEMBERS:
            raise TooLarge(f"The zip holds {len(infos)} files; at most {MOST_MEMBERS} are read.")
        if sum(info.file_size for info in infos) > max_bytes:
            raise self._too_large()
        self._infos = [info for info in infos if not _climbs(info.filename)]
        self.unsafe = len(infos) - len(self._infos)
        for info in self._infos:
            _require_readable(info)

    def __len__(self) -> int:
        return len(self._infos)

    def size(self, member: int) -> int:
        """Bytes that the member claims to unpack to."""
        return self._infos[member].file_size

    def head(self, member: int, size: int) -> bytes:
        """The first `size` bytes of a member, or all of it if it is shorter."""
        return self._read(member, min(size, self.size(member)))

    def read(self, member: int) -> bytes:
        """All bytes of a member. Raises CorruptFile if they are not as many, or not those, that it claims."""
        content = self._read(member, self.size(member) + 1)
        if len(content) != self.size(member):
            raise CorruptFile("A file in the zip does not have the size that the zip's directory says.")
        return content

    def renew(self) -> None:
        """Begin another pass over the members: allow `max_bytes` once more."""
        self._left = self._max_bytes

    def _read(self, member: int, size: int) -> bytes:
        pieces: list[bytes] = []
        try:
            with self._zip.open(self._infos[member]) as stream:
                while size > 0 and (piece := stream.read(min(_PIECE_BYTES, size))):
                    size -= len(piece)
                    self._left -= len(piece)
                    if self._left < 0:
                        raise self._too_large()
                    pieces.append(piece)
        except _DAMAGED:
            # What zipfile says may hold the name of the file, and that may name the patient.
            raise CorruptFile("A file in the zip is damaged: pack it again.") from None
        return b"".join(pieces)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The zip unpacks to more than the {self._max_bytes} bytes that are allowed.")


@contextmanager
def open_archive(path: Path, max_bytes: int) -> Iterator[Archive]:
    """The zip at `path`; see Archive. OSError if it cannot be opened."""
    with path.open("rb", buffering=0) as raw, _PiecesOnly(raw) as file:
        yield Archive(file, max_bytes)


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _DAMAGED:
        raise CorruptFile("The zip is damaged or cut off: its directory cannot be read.") from None


def _climbs(name: str) -> bool:
    """Whether a name would lead out of the folder it is unpacked in."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":")


def _require_readable(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise UnsupportedFormat("The zip is encrypted: send it without a password.", code="encrypted_zip")
    if info.compress_type not in _KINDS:
        raise UnsupportedFormat("The zip is not packed with deflate: pack it again.", code="unsupported_zip")
