"""DICOM peers for tests: a caller that stores, and the node as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from app.settings import Settings
from tests.waiting import PATIENCE_S, until


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def associate(port: int, contexts: Iterable[str], *, caller="PACS", called="HEPASEG"):
    entity = AE(ae_title=caller)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE_S
    for context in contexts:
        entity.add_requested_context(context, [ExplicitVRLittleEndian])
    return entity.associate("127.0.0.1", port, ae_title=called)


def store(port: int, datasets: list[Dataset], **how: str) -> list[Dataset]:
    """Send datasets in one association; the answers."""
    association = associate(port, {each.SOPClassUID for each in datasets}, **how)
    assert association.is_established
    answers = [association.send_c_store(each) for each in datasets]
    association.release()
    return answers


class Program:
    """`hepaseg COMMAND` in a process of its own, its log in a file."""

    def __init__(self, settings: Settings, log: Path, *command: str, **environment: str) -> None:
        self.log = log
        self._command = [sys.executable, "-m", "app", *command]
        self._environment = {**os.environ, **settings.environment(), **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, ready: Callable[[], object]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        until(lambda: ready() or self._died())
        assert not self._died(), self.log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(number)
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()
                process.wait()

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def _died(self) -> bool:
        return self._process is None or self._process.poll() is not None


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
