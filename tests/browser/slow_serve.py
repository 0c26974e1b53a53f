"""`hepaseg serve` with a worker that waits in a stage if it is told to, so that a browser can watch and cancel."""

from __future__ import annotations

import sys
from pathlib import Path

from app.errors import HepasegError
from app.main import serve
from app.settings import Settings

if __name__ == "__main__":
    try:
        serve(Settings(), worker_command=[sys.executable, str(Path(__file__).with_name("slow_worker.py"))])
    except HepasegError as error:
        sys.exit(error.detail)
