"""The compose profile `pacs` without Docker: its commands, environment, host names, ports and mounted files.

Run in namespaces of its own, `unshare --net --mount --pid --fork --kill-child --mount-proc`, with a folder and, on
standard input, what `docker-compose config` shows. Every host name is this machine, and the files lie where the
containers have them. What the images bring comes from Debian and from this environment.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import yaml
from pydicom import dcmread

from tests.analytic_networks import phantom_models
from tests.dicom_files import MARKS, named, series_of
from tests.pacs_peers import until
from training.phantom import abdomen

SERVICES = ("orthanc", "dicom-node", "pacs")
#: Entry points and commands of the images: jodogne/orthanc-plugins, and our Dockerfile.
IMAGE_COMMANDS = {"orthanc": ["/usr/sbin/Orthanc", "/etc/orthanc/"], "pacs": ["hepaseg", "serve"]}
ORTHANC, SERVICE = "http://127.0.0.1:8042", "http://127.0.0.1:8008"


def shell(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def furnish(folder: Path, services: dict) -> None:
    """Loopback, host names, and the mounted files at their places."""
    shell("ip", "link", "set", "lo", "up")
    (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *services)))
    shell("mount", "--bind", folder / "hosts", "/etc/hosts")
    for place in ("/etc/orthanc", "/var/lib/orthanc"):
        shell("mount", "-t", "tmpfs", "none", place)
    for volume in services["orthanc"]["volumes"]:
        source, _, rest = volume.partition(":")
        target = Path(rest.split(":")[0])
        if source.startswith("/"):
            target.write_bytes(Path(source).read_bytes())
        else:
            target.mkdir(parents=True)


def start(folder: Path, name: str, service: dict) -> None:
    command = list(service.get("command") or IMAGE_COMMANDS[name])
    if command[0] == "hepaseg":
        command = [sys.executable, "-m", "app", *command[1:]]
    image = dict(
        shlex.split(word)[0].split("=", 1)
        for line in Path("Dockerfile").read_text().splitlines()
        for word in line.split()
        if word.startswith("HEPASEG_")
    )
    own = {"HEPASEG_DATA_DIR": str(folder / "data"), "HEPASEG_MODELS_DIR": str(folder / "models")}
    with (folder / f"{name}.log").open("wb") as log:
        environment = {**os.environ, **image, **(service.get("environment") or {}), **own, "HEPASEG_THREADS": "1"}
        subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def results() -> list[tuple[str, str]]:
    """Modality and series description of what the service made, as Orthanc has it."""
    query = {"Level": "Instance", "Query": {"SeriesDescription": "Liver and lesions*"}}
    found = httpx.post(f"{ORTHANC}/tools/find", json=query, timeout=20).json()
    headers = [dcmread(io.BytesIO(httpx.get(f"{ORTHANC}/instances/{each}/file", timeout=20).content)) for each in found]
    assert {each.StudyInstanceUID for each in headers} <= {MARKS["StudyInstanceUID"]}
    return sorted((each.Modality, each.SOPInstanceUID) for each in headers)


def is_up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main(folder: Path) -> None:
    configuration = yaml.safe_load(sys.stdin)["services"]
    services = {name: configuration[name] for name in SERVICES}
    furnish(folder, services)
    phantom = abdomen(seed=3, shape=(64, 56, 24), spacing_mm=(5.0, 5.5, 8.0), noise_hu=0)
    phantom_models(folder / "models")
    (folder / "ct" / "nested").mkdir(parents=True)
    for name, content in named(series_of(phantom.volume), folder="nested").items():
        (folder / "ct" / name).write_bytes(content)
    for name in SERVICES:
        start(folder, name, services[name])
    until(lambda: is_up(f"{ORTHANC}/system") and is_up(f"{SERVICE}/health/ready") and listens(11112), 120)
    # As docs/pacs.md says.
    shell("/usr/bin/storescu", "-aec", "ORTHANC", "+sd", "+r", "127.0.0.1", 4242, folder / "ct")
    by_store = until(lambda: len(found := results()) == 2 and found, 180)
    named_ = {"dicomweb": {"study": MARKS["StudyInstanceUID"], "series": MARKS["SeriesInstanceUID"]}}
    accepted = httpx.post(f"{SERVICE}/segment", json=named_, timeout=60)
    assert accepted.status_code == 202, accepted.text
    by_web = until(lambda: len(found := results()) == 4 and found, 180)
    said = {"by C-STORE": [each[0] for each in by_store], "then by STOW-RS": [each[0] for each in by_web]}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
