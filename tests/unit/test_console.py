"""What the command line shows while it works."""

import io
import time

from rich.console import Console

from app.console import progress_bar

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
    erased = "\x1b[2K"
    assert screen.getvalue().rstrip().endswith(erased)


def test_a_quiet_bar_says_nothing():
    screen = io.StringIO()
    with progress_bar(Console(file=screen, force_terminal=True), "ct", quiet=True) as tell:
        tell("liver", 0.5)
    assert not screen.getvalue().strip()
