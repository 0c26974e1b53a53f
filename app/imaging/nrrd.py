"""Labels as NRRD, for viewers that ask for it."""

from __future__ import annotations

import gzip
from typing import Literal

import numpy as np

from app.imaging.volume import Segmentation

_TYPES = {"uint8": "unsigned char", "uint16": "unsigned short"}


def encode_labels(segmentation: Segmentation, dtype: Literal["uint8", "uint16"] = "uint8", *, packed: bool) -> bytes:
    """An NRRD file of the labels on their own grid; packed: with gzip. NRRD speaks LPS, NIfTI and `affine` RAS."""
    geometry = segmentation.geometry
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    directions = " ".join(_vector(lps[:3, axis]) for axis in range(3))
    header = (
        "NRRD0004",
        f"type: {_TYPES[dtype]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, geometry.shape))}",
        f"space directions: {directions}",
        "kinds: domain domain domain",
        "endian: little",
        f"encoding: {'gzip' if packed else 'raw'}",
        f"space origin: {_vector(lps[:3, 3])}",
    )
    voxels = segmentation.labels.astype(np.dtype(dtype).newbyteorder("<")).tobytes(order="F")
    return ("\n".join(header) + "\n\n").encode() + (gzip.compress(voxels, 4, mtime=0) if packed else voxels)


def _vector(numbers: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return f"({','.join(repr(float(number)) for number in numbers)})"
