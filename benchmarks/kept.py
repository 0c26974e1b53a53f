"""Measurements kept on disk, so that a long benchmark may be run in pieces: what is there is not measured again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.imaging.atomic import write_text

Row = dict[str, Any]


class NotFinished(Exception):
    """The time of this piece is over; what was measured so far is kept."""


class Kept:
    """Rows by name in a JSON file. Once so many seconds are over, nothing new is begun: NotFinished is raised."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._end = path, time.monotonic() + seconds
        self._rows: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}

    def row(self, name: str, measure: Callable[[], Row]) -> Row:
        """The row of this name, measured unless it is kept; with the load when it was."""
        if name not in self._rows:
            if time.monotonic() > self._end:
                raise NotFinished(name)
            self._rows[name] = measure()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._rows, indent=1) + "\n")
        return self._rows[name]
