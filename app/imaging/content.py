"""What a file is by its first bytes, for the sentence that says why it cannot be read."""

from __future__ import annotations

GZIP_MAGIC = b"\x1f\x8b"
_HEADER_SIZES = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}

_PAIR = "the header of a NIfTI pair (.hdr and .img): save it as one .nii file"

#: (offset, magic, what a file with these bytes is)
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (344, b"ni1\0", _PAIR),
    (4, b"ni2\0", _PAIR),
    (128, b"DICM", "a single DICOM file: send all files of the series in one zip"),
    (0, b"PK\x03\x04", "a zip archive, which is read as a DICOM series only"),
    (0, b"NRRD", "an NRRD file: save it as NIfTI"),
    (0, b"ObjectType", "a MetaImage header: save it as NIfTI"),
    (0, b"\x89HDF", "an HDF5 or MINC file: save it as NIfTI"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"RIFF", "a WebP picture or another RIFF file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"BZh", "a bzip2 archive: only gzip is read"),
    (0, b"\xfd7zXZ", "an xz archive: only gzip is read"),
    (0, b"7z\xbc\xaf", "a 7z archive: only gzip is read"),
    (257, b"ustar", "a tar archive"),
    (0, GZIP_MAGIC, "compressed with gzip twice: unpack it once"),
    (0, b"<", "an HTML or XML page"),
)


def begins_like_nifti(prefix: bytes) -> bool:
    """Whether the first four bytes are the header size of NIfTI-1 or NIfTI-2, in either byte order."""
    return prefix[:4] in _HEADER_SIZES


def describe(prefix: bytes) -> str:
    """Say what the (unpacked) bytes look like, to end the sentence "The file is …"."""
    for offset, magic, what in _SIGNATURES:
        if prefix[offset : offset + len(magic)] == magic:
            return what
    if begins_like_nifti(prefix):
        return "an ANALYZE 7.5 header, which has no orientation: save it as NIfTI"
    return "of a kind this service does not know"
