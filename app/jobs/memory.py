"""How much memory a worker has, and how much a scan will take."""

from __future__ import annotations

import math
import os
from pathlib import Path

from app.errors import InputError
from app.imaging.scan import Limits, probe_scan

#: What a worker takes with its networks at work, and for each voxel of a scan: as `benchmarks/pipeline.py` measures it
#: at 512 x 512 x 100 to 300, and real scans, whose livers fill more of the picture.
_START_BYTES = 420 * 1000**2
_VOXEL_BYTES = 14
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def needed_bytes(voxels: int) -> int:
    """The peak that a scan of that size is expected to reach."""
    return _START_BYTES + _VOXEL_BYTES * voxels


def needed_for(scan: Path, limits: Limits, series_uid: str | None = None) -> int:
    """The same of a file, by its header; of one that cannot be read nothing, for it will be refused."""
    try:
        return needed_bytes(math.prod(probe_scan(scan, limits, series_uid).shape))
    except (InputError, OSError):
        return 0


def room_bytes(allowed: int = 0) -> int:
    """What is allowed; if that is 0, what this machine, or the container that this process is in, has at most."""
    if allowed:
        return allowed
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    said = [Path(limit).read_text().strip() for limit in _LIMITS if Path(limit).exists()]
    return min([machine, *(int(limit) for limit in said if limit.isdigit())])
