"""How long tests wait: for conditions and not for time, and with patience, for the machine may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which nobody believes any more that something comes.
PATIENCE_S = 180.0


def until(condition: Callable[[], T | None], seconds: float = PATIENCE_S) -> T:
    """What `condition` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found
