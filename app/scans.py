"""Which files are scans, and what is said of one that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from app.errors import NO_ROOM, HepasegError, InputError, InvalidRequest, StorageFull
from app.imaging.scan import probe_scan

NIFTI_ENDINGS = (".nii.gz", ".nii")
#: What is said of files that are no scans at all: these may lie beside scans.
_OTHER_FILES = ("unsupported_format", "empty_file", "no_dicom")


def files_below(folder: Path, *apart: Path) -> Iterator[Path]:
    """The files anywhere below a folder, sorted, without those below a folder of `apart`, however that is spelt."""
    left_out = {path.resolve() for path in apart} - {folder.resolve()}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and left_out.isdisjoint((path.parent.resolve() / path.name).parents):
            yield path


def is_scan(path: Path) -> bool:
    """Whether a file is a scan, by its content; one that is damaged, tilted or locked is, so that this gets said."""
    try:
        probe_scan(path)
    except InputError as error:
        return error.code not in _OTHER_FILES
    except OSError:
        return True
    return True


def stem_of(name: str) -> str:
    """A file's name without .nii, .nii.gz or .zip."""
    return next((name.removesuffix(ending) for ending in (*NIFTI_ENDINGS, ".zip") if name.endswith(ending)), name)


def said_of(error: OSError, given: Iterable[Path | None], output: Path) -> HepasegError:
    """What a failed call means to whoever gave these files: one of them, or `output` where results go, is to blame."""
    if error.errno in NO_ROOM:
        return StorageFull(f"{error.strerror}: the results could not be written to {output}.")
    if str(error.filename) in {str(path) for path in given if path is not None}:
        return InputError(f"{error.strerror}: {error.filename} could not be read.", code="unreadable_file")
    return InvalidRequest(f"{error.strerror}: the results could not be written to {output}.")
