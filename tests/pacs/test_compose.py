"""The compose profile that the docs hand out for a first try."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dicom_files import program

pytestmark = pytest.mark.pacs

ROOT = Path(__file__).parents[2]
#: Everything in it ends with its first process.
NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_the_profile_brings_results_back_to_orthanc_both_ways(tmp_path: Path):
    """With its very commands, environment, host names and files, in namespaces of their own instead of containers."""
    compose, unshare = program("docker-compose"), program("unshare")
    for name in ("ip", "mount"):
        program(name)
    shown = subprocess.run(
        [compose, "-f", ROOT / "docker-compose.yml", "--profile", "pacs", "config"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    as_root = () if os.getuid() == 0 else ("--map-root-user",)
    command = [unshare, *as_root, *NAMESPACES, sys.executable, "-m", "tests.pacs.compose_here", tmp_path]
    ran = subprocess.run(command, input=shown, cwd=ROOT, capture_output=True, text=True, check=False)
    logs = "".join(path.read_text()[-2000:] for path in tmp_path.glob("*.log"))
    assert ran.returncode == 0, ran.stderr[-3000:] + logs
    assert json.loads(ran.stdout) == {"by C-STORE": ["SEG", "SR"], "then by STOW-RS": ["SEG", "SEG", "SR", "SR"]}


def test_orthanc_looks_for_its_plugins_where_debian_and_the_image_have_them():
    """Without the DICOMweb plug-in Orthanc starts all the same, and half of the profile does nothing."""
    configuration = json.loads((ROOT / "docs" / "pacs" / "orthanc.json").read_text())
    assert {"/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins"} <= set(configuration["Plugins"])
