"""A real Orthanc on free loopback ports, and the service beside it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.waiting import PATIENCE_S, until

#: The files that the docs hand out and the compose profile `pacs` mounts.
DOCS = Path(__file__).parents[2] / "docs" / "pacs"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """Orthanc with its data in `folder`; `routed_to` is the port of the service."""

    def __init__(self, folder: Path, http: int, dicom: int, routed_to: int) -> None:
        if not Path("/usr/sbin/Orthanc").exists() or not PLUGIN.exists():
            missing = "orthanc and orthanc-dicomweb are not installed"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
        folder.mkdir(exist_ok=True)
        configuration = json.loads((DOCS / "orthanc.json").read_text())
        configuration |= {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "StableAge": 3,
            "HttpPort": http, "DicomPort": dicom, "Plugins": [str(PLUGIN)], "RemoteAccessAllowed": False,
            "DicomModalities": {"hepaseg": ["HEPASEG", "127.0.0.1", routed_to]},
            "LuaScripts": [str(DOCS / "route.lua")],
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self._folder = folder
        self.dicom_port = dicom
        self.url = f"http://127.0.0.1:{http}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            command = ["/usr/sbin/Orthanc", str(self._folder / "orthanc.json")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()
                process.wait()

    def instances(self, modality: str) -> list[str]:
        """The ids of the instances of a modality."""
        query = {"Level": "Series", "Query": {"Modality": modality}, "Expand": True}
        series = httpx.post(f"{self.url}/tools/find", json=query, timeout=20).json()
        return [instance for each in series for instance in each["Instances"]]

    def file(self, instance: str) -> bytes:
        return httpx.get(f"{self.url}/instances/{instance}/file", timeout=20).content

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/system", timeout=2).status_code == 200
        except httpx.TransportError:
            return False
