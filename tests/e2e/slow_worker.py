"""A worker process whose tiny pipeline dawdles in each stage and keeps a journal, so that tests can kill it there.

python slow_worker.py [PARENT]      SLOW_JOURNAL: file for "<pid> <job> <attempt> <stage>" lines
                                    SLOW_PAUSE_S: how long it stays in each stage
                                    SLOW_BROKEN:  it says this about its networks and ends
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import tiny

from app.errors import BrokenModel
from app.jobs.job import Notice
from app.jobs.lease import Progress
from app.jobs.worker import EXIT_BROKEN, Work, die_with, work
from app.settings import Settings


def run(work: Work, tell: Progress) -> list[Notice]:
    pause_s = float(os.environ["SLOW_PAUSE_S"])
    attempt, job = work.output.name, work.output.parent.parent.name
    for n, stage in enumerate(tiny.STAGES):
        tell(stage, n / len(tiny.STAGES))
        half = work.output / "labels.nii.gz"
        half.write_bytes(b"half")
        with Path(os.environ["SLOW_JOURNAL"]).open("a") as journal:
            journal.write(f"{os.getpid()} {job} {attempt} {stage}\n")
        time.sleep(pause_s)
        half.unlink()
    tiny.run(work, tiny.in_silence)
    return []


def prepare() -> tuple[Callable, dict]:
    if "SLOW_BROKEN" in os.environ:
        raise BrokenModel(os.environ["SLOW_BROKEN"])
    return run, tiny.CARDS


if __name__ == "__main__":
    if sys.argv[1:]:
        die_with(int(sys.argv[1]))
    try:
        work(Settings(), prepare)
    except BrokenModel:
        sys.exit(EXIT_BROKEN)
