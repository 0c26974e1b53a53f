"""What a process needed at most.

Not `getrusage`: its peak begins with what the process that started it had in memory.
"""

from __future__ import annotations

import re
from pathlib import Path


def peak_gb(pid: int | str = "self") -> float:
    """The most of its own memory that a living process had resident."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e9
