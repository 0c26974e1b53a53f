"""The benchmarks that must hold, in short; `python benchmarks/kills.py --kills 200` is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.services, pytest.mark.slow]


def printed_by(*command: str) -> str:
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    print(ended.stdout)  # noqa: T201 - the counts
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("site", ["local", "redis", "rabbitmq"])
def test_kills_at_random_moments_lose_nothing_and_double_nothing(postgres, redis, rabbitmq, site: str):
    assert "nothing lost" in printed_by("benchmarks/kills.py", "--kills", "10", "--site", site, "--seed", "2")
