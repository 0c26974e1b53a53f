"""The bytes of an uploaded file, unpacked and hashed on the way, with a bound on everything."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import BinaryIO

from isal import igzip
from isal.igzip_lib import IsalError

from app.errors import CorruptFile
from app.imaging.content import GZIP_MAGIC

#: How much is unpacked at a time.
_PIECE_BYTES = 1 << 18
#: Deflate cannot shrink better than 1032 to 1: a smaller file cannot hold what its header announces.
_DEFLATE_RATIO = 1032
#: Some writers pad the end of a file; more than this means a wrong header, or a bomb.
PADDING_BYTES = 4096


class _HashedFile(io.RawIOBase):
    """The raw file, read forward once; `sha256` is that of all bytes read so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._file.read(len(buffer))
        self.sha256.update(piece)
        buffer[: len(piece)] = piece
        return len(piece)


class ScanStream:
    """Unpacked bytes of a scan, forward only; it never unpacks more than it is asked for.

    Every failure to unpack is a CorruptFile that says after how many bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._gzipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        self._raw = _HashedFile(file)
        self._unpacked = igzip.IGzipFile(fileobj=self._raw, mode="rb") if self._gzipped else self._raw
        self._position = 0
        self._expected = 0

    def expect(self, total_bytes: int) -> None:
        """Say how many bytes the header announces. Raises CorruptFile if the file cannot hold them."""
        self._expected = total_bytes
        if self._file_bytes * (_DEFLATE_RATIO if self._gzipped else 1) < total_bytes:
            raise self._cut_off(0 if self._gzipped else self._file_bytes)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end. Raises CorruptFile."""
        try:
            piece: bytes = self._unpacked.read(size) or b""
        except EOFError as error:
            raise self._cut_off(self._position) from error
        except (BadGzipFile, IsalError, OverflowError) as error:  # type: ignore[misc]  # isal's stub is wrong
            raise CorruptFile(f"The gzip stream is damaged after {self._position} bytes: {error}.") from error
        self._position += len(piece)
        return piece

    def fill(self, buffer: memoryview) -> None:
        """Fill the whole buffer (flat, of bytes). Raises CorruptFile if the file ends before."""
        filled = 0
        while filled < len(buffer):
            piece = self.read(min(_PIECE_BYTES, len(buffer) - filled))
            if not piece:
                raise self._cut_off(self._position)
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)

    def skip_to(self, position: int) -> None:
        """Read on to `position`, counted from the start. Raises CorruptFile if the file ends before."""
        self.fill(memoryview(bytearray(position - self._position)))

    def finish(self) -> str:
        """Check that nothing but padding follows, and the checksum; return the SHA-256 of the file as sent.

        What follows is unpacked no farther than PADDING_BYTES.
        """
        allowed = self._position + PADDING_BYTES
        while self.read(allowed + 1 - self._position):
            if self._position > allowed:
                raise CorruptFile(f"The file goes on after the {self._expected} bytes its header announces.")
        return self._raw.sha256.hexdigest()

    def _cut_off(self, found: int) -> CorruptFile:
        announced = f"its header announces {self._expected} bytes, but " if self._expected else ""
        # How much of a damaged gzip was unpacked depends on the decoder; it would only mislead.
        end = "it ends before them" if self._gzipped and announced else f"it ends after {found}"
        return CorruptFile(f"The file is cut off: {announced}{end}.")


@contextmanager
def open_stream(path: Path) -> Iterator[ScanStream]:
    """The file as a ScanStream: gzip or not is decided by its first bytes. OSError if it cannot be opened."""
    with path.open("rb") as file:
        yield ScanStream(file)
