"""NIfTI files for tests: built byte by byte where NiBabel would not let one do wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np


def straight(spacing=(0.8, 0.9, 2.5), origin=(-20.0, 15.0, -300.0)) -> np.ndarray:
    """An RAS affine without rotation."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def oblique(spacing=(0.8, 0.9, 2.5), origin=(-20.0, 15.0, -300.0), angles=(0.2, -0.1, 0.15)) -> np.ndarray:
    """An affine turned by three angles (radians)."""
    affine = straight(spacing, origin)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) @ affine[:3, :3]
    return affine


def image(voxels, affine=None, *, version=1, byte_order="<") -> nib.Nifti1Image:
    """A NiBabel image whose sform and qform are both the affine."""
    kind, header = {1: (nib.Nifti1Image, nib.Nifti1Header), 2: (nib.Nifti2Image, nib.Nifti2Header)}[version]
    affine = straight() if affine is None else affine
    picture = kind(voxels, affine, header(endianness=byte_order), dtype=voxels.dtype.newbyteorder("="))
    picture.set_sform(affine, 1)
    picture.set_qform(affine, 1)
    return picture


def packed(picture: nib.Nifti1Image) -> bytes:
    """The unpacked .nii file."""
    return picture.to_bytes()


def altered(nii: bytes, **fields) -> bytes:
    """The same NIfTI-1 file with other header fields; `pixdim={3: 0}` sets one entry of an array."""
    dtype = nib.nifti1.header_dtype.newbyteorder("<")
    header = np.frombuffer(nii[:348], dtype).copy()
    for name, value in fields.items():
        if isinstance(value, dict):
            for index, entry in value.items():
                header[0][name][index] = entry
        else:
            header[0][name] = value
    return header.tobytes() + nii[348:]


def saved(folder: Path, content: bytes, name: str = "scan.nii", *, gz: bool = False) -> Path:
    """Write a file; packed if `gz`. The name means nothing to the reader."""
    path = folder / name
    path.write_bytes(gzip.compress(content, 1, mtime=0) if gz else content)
    return path
