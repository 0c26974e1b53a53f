"""The container files, as far as they can be checked without an engine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def _needed(program: str) -> str:
    found = shutil.which(program, path=f"{ROOT / '.venv/bin'}:{os.environ['PATH']}")
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{program} is missing")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def test_the_dockerfile_passes_hadolint():
    subprocess.run([_needed("hadolint"), ROOT / "Dockerfile"], check=True)


@pytest.mark.parametrize("profile", [[], ["--profile", "gpu"], ["--profile", "cluster"], ["--profile", "pacs"]])
def test_the_compose_file_is_valid(profile: list[str]):
    compose = _needed("docker-compose")
    command = [compose, "-f", ROOT / "docker-compose.yml", *profile, "config"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    published = [line for line in shown.splitlines() if "/tcp" in line]
    assert any(":8008/tcp" in line for line in published)
    assert all("- 127.0.0.1:" in line for line in published)
    assert "driver: nvidia" in shown or "gpu" not in profile
    assert "HEPASEG_BROKER_URL" in shown or "cluster" not in profile


def test_all_that_the_image_copies_exists_and_is_in_the_build_context():
    sources = [
        source
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert {"app", "models"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.removeprefix("./") in allowed, source


def test_the_image_does_not_run_as_root_and_keeps_the_init_in_front():
    assert "\nUSER 10001\n" in DOCKERFILE
    assert '\nENTRYPOINT ["tini", "-g", "--"]\n' in DOCKERFILE
