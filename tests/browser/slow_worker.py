"""The real worker with the real pipeline, which waits in the stage that HOLD_FILE names for as long as it does so."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from app.jobs import worker
from app.jobs.lease import Progress
from app.settings import Settings


def prepare() -> tuple[Callable, dict]:
    run, cards = worker._prepare(Settings())
    hold = Path(os.environ["HOLD_FILE"])

    def slowly(work: worker.Work, tell: Progress):
        def telling(stage: str, progress: float) -> None:
            tell(stage, progress)
            while hold.read_text() == stage:
                time.sleep(0.05)
                tell(stage, progress)

        return run(work, telling)

    return slowly, cards


if __name__ == "__main__":
    sys.exit(worker.embedded(sys.argv[1:], lambda settings: worker.work(settings, prepare)))
