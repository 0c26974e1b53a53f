"""What the command line shows while it works."""

import io
import time

from rich.console import Console

from app.console import Bars, progress_bar

PATIENCE_S = 60


def test_the_bar_tells_scan_stage_and_share_and_is_gone_at_the_end(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    with progress_bar(Console(file=screen, force_terminal=True, width=100), "thorax.nii.gz") as tell:
        for stage, share in (("liver", 0.25), ("lesion", 0.75)):
            tell(stage, share)
            deadline = time.monotonic() + PATIENCE_S
            while not (
                line := [each for each in screen.getvalue().split("\r") if stage in each and f"{share:.0%}" in each]
            ):
                assert time.monotonic() < deadline, screen.getvalue()
                time.sleep(0.02)
            assert "thorax.nii.gz" in line[0]
    _, erased, left = screen.getvalue().rpartition("\x1b[2K")
    assert erased
    assert "thorax" not in left


def test_two_bars_stand_under_each_other_and_make_room_for_what_is_printed(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with Bars(console) as bars, bars.bar("1/2 a") as one, bars.bar("2/2 b") as two:
        one("liver", 0.5)
        two("read", 0.1)
        with bars.aside():
            before = len(screen.getvalue())
            console.print("done")
            assert screen.getvalue()[before:] == "done\n"
        deadline = time.monotonic() + PATIENCE_S
        while not all(title in screen.getvalue().rpartition("done")[2] for title in ("1/2 a", "2/2 b")):
            assert time.monotonic() < deadline, screen.getvalue()
            time.sleep(0.02)


def test_a_quiet_bar_says_nothing():
    screen = io.StringIO()
    with progress_bar(Console(file=screen, force_terminal=True), "ct", quiet=True) as tell:
        tell("liver", 0.5)
    assert not screen.getvalue().strip()
