"""Runs `python -m training …` again and again and kills it each time at another moment, until it is let through.

One process imports PyTorch and forks a child for every attempt, because the import takes longer than the training. What
is left on the disk is what SIGKILL leaves. Usage: dying_training.py FOLDER_OF_THE_RUN ARGUMENTS...
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from training import __main__ as training
from training import checkpoint

FOLDER = Path(sys.argv[1])
ARGUMENTS = sys.argv[2:]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_touch(number):
    """Die at the n-th time that a file of the run is opened, renamed or removed: just before it happens."""
    left = [number]

    def hook(event, arguments):
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(FOLDER)):
            left[0] -= 1
            if left[0] == 0:
                die()

    sys.addaudithook(hook)


def die_half_written():
    """Die with half of the second checkpoint on the disk."""
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            beside = FOLDER / "next.ckpt"
            os.truncate(beside, beside.stat().st_size // 2)
            die()

    checkpoint.os = type("os", (), {"fsync": staticmethod(fsync)})


def attempt(sabotage, kill_when=None):
    """Fork, sabotage, run; the signal that ended the child, 0 if it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            sabotage()
            training.main(ARGUMENTS)
            os._exit(0)
        except BaseException as error:  # a forked child must never return into the loop below
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    if kill_when is not None:
        while not kill_when() and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.001)
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            return 0
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("an attempt failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def after(seconds):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def main():
    ends = [attempt(die_half_written)]
    ends += [attempt(lambda: None, (FOLDER / "next.ckpt").exists)]
    ends += [attempt(lambda number=number: die_at_touch(number)) for number in range(1, 12)]
    ends += [attempt(lambda: None, after(seconds)) for seconds in (0.4, 0.9, 1.5)]
    ends += [attempt(lambda: None)]
    print(json.dumps(ends))  # noqa: T201 - read by the test


main()
