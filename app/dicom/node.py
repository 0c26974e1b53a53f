"""`hepaseg dicom-node`: takes CT series by C-STORE, and makes a job of each that the rules let in.

An instance goes to the disk as it arrives and is answered when it is safe there. A series is whole when no association
that sent of it is open and nothing came for a while. Logs name callers that the rules name, codes and numbers.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import shutil
import signal
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    AllTransferSyntaxes,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)
from pynetdicom import AE, _config, evt
from sqlalchemy.exc import SQLAlchemyError

from app.dicom.outbox import Outbox, peers_of
from app.dicom.rules import ANYBODY, Rules, facts_of, read_rules, refusal_of
from app.dicom.spool import CALLER, Spool, instances
from app.errors import HepasegError, InputError, InvalidRequest
from app.imaging.dicom_header import PYDICOM_RAISES, silence, text, unheard
from app.imaging.scan import probe_scan
from app.jobs.bell import bell_of
from app.jobs.job import Job
from app.jobs.logs import configure_logs, logger
from app.jobs.results import JobFiles
from app.jobs.store import Order, Store
from app.settings import Settings

# It logs the UIDs and the addresses of everything that it is sent.
silence("pynetdicom")

MOST_ASSOCIATIONS = 64

_ECHO = "1.2.840.10008.1.1"

_TAKEN = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_SUCCESS, _NO_ROOM, _DOES_NOT_MATCH, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
_LOOK_EVERY_S = 0.2
_TRY_AGAIN_S = 5.0
_STOP_S = 5.0
_SILENT_PEER_S = 60.0
#: Not the fault of the series: it stays in the spool and is tried again.
_WAITS = (HepasegError, SQLAlchemyError, OSError)
#: The same for every zip, so that the same series gives the same bytes.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)

_log = logger("dicom-node")


class Node:
    """The C-STORE side, and what makes jobs of whole series. Raises InvalidRequest if the rules cannot be read."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.rules: Rules = read_rules(Path(settings.dicom_rules) if settings.dicom_rules else None)
        self._settings = settings
        self._store = store
        self._files = JobFiles.of(settings)
        self._bell = bell_of(settings)
        self.spool = Spool(settings.data_dir / "spool")
        # Results go back the way that the series came, if there is such a way.
        self._deliver_to = tuple(peers_of(settings))[:1]

    def serve(self, stop: threading.Event) -> None:
        """Take series until told to stop. Raises InvalidRequest if the port is taken."""
        # pynetdicom writes what arrives into the temporary folder: let that be the one it is taken over from.
        tempfile.tempdir = str(self.spool.arriving)
        _config.STORE_RECV_CHUNKED_DATASET = True
        address = (self._settings.dicom_host, self._settings.dicom_port)
        try:
            server = self._entity().start_server(address, block=False, evt_handlers=self._handlers())
        except OSError as error:
            raise InvalidRequest(f"The DICOM port {address[1]} cannot be used: {error.strerror}.") from None
        if server is None:
            raise TypeError(server)
        outbox = Outbox(self._settings, self._store, self._files).start(stop)
        _log.info("dicom node listens", port=address[1], callers=len(self.rules.callers))
        try:
            while not stop.wait(_LOOK_EVERY_S):
                self.tick(stop)
        finally:
            stop.set()
            server.shutdown()
            outbox.join(_STOP_S)
            _log.info("dicom node stopped")

    def tick(self, stop: threading.Event) -> None:
        """Close the series that are quiet, and make jobs of those that are whole."""
        self.spool.close(self._settings.dicom_quiet_s, self._settings.dicom_broken_s)
        has_to_wait = False
        for folder in self.spool.whole():
            try:
                self._admit(folder)
            except _WAITS as error:
                _log.warning("series waits", code=getattr(error, "code", type(error).__name__))
                has_to_wait = True
        if has_to_wait:
            stop.wait(_TRY_AGAIN_S)

    def _entity(self) -> AE:
        entity = AE(ae_title=self._settings.dicom_ae)
        entity.maximum_associations = MOST_ASSOCIATIONS
        entity.network_timeout = _SILENT_PEER_S
        entity.require_called_aet = True
        if ANYBODY not in self.rules.callers:
            entity.require_calling_aet = list(self.rules.callers)
        entity.add_supported_context(_ECHO)
        for sop_class in _TAKEN:
            entity.add_supported_context(sop_class, list(AllTransferSyntaxes))
        return entity

    def _handlers(self) -> list[Any]:
        ends = (evt.EVT_RELEASED, evt.EVT_ABORTED, evt.EVT_CONN_CLOSE)
        return [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_REJECTED, self._on_rejected),
            *((end, self._on_end) for end in ends),
        ]

    def _on_store(self, event: evt.Event) -> int | Dataset:
        path = event.dataset_path
        try:
            return self._keep(event, path)
        except OSError as error:
            _log.warning("no room for an instance", error=type(error).__name__)
            return _answer(_NO_ROOM, "storage_full")
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, event: evt.Event, path: Path) -> int | Dataset:
        if self._files.free_bytes() < self._settings.min_free_bytes + path.stat().st_size:
            return _answer(_NO_ROOM, "storage_full")
        try:
            with unheard():
                header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
                uids = text(header, "SeriesInstanceUID"), text(header.file_meta, "MediaStorageSOPInstanceUID")
        except (*PYDICOM_RAISES, InputError):
            return _answer(_NOT_UNDERSTOOD, "corrupt_file")
        if not all(uids):
            return _answer(_DOES_NOT_MATCH, "missing_tags")
        self.spool.put(path, uids, event.assoc.requestor.ae_title, id(event.assoc))
        return _SUCCESS

    def _on_end(self, event: evt.Event) -> None:
        self.spool.ended(id(event.assoc), broken=event.event is not evt.EVT_RELEASED)

    def _on_rejected(self, event: evt.Event) -> None:
        primitive = event.assoc.acceptor.primitive
        reason = None if primitive is None else getattr(primitive, "diagnostic", None)
        _log.warning("association rejected", code="unknown_caller_or_busy", diagnostic=reason)

    def _admit(self, folder: Path) -> None:
        """Make a job of a whole series, or say why not; its folder is gone afterwards."""
        caller = (folder / CALLER).read_text()
        known = caller if caller in self.rules.callers else ANYBODY
        files = instances(folder)
        try:
            code = refusal_of(self.rules.take, facts_of(files))
            job = None if code else self._submit(files, caller)
        except InputError as error:
            code, job = error.code, None
        except _WAITS:
            raise
        except Exception as error:
            # A bug; a series that shows it shall not hold the others up. What it says may name the patient.
            _log.error("series stumbled over a bug", error=type(error).__name__)
            code, job = "internal_error", None
        if job is None:
            _log.warning("series refused", code=code, instances=len(files), caller=known)
        else:
            _log.info("series taken", job=job.id, instances=len(files), caller=known, priority=job.priority)
        shutil.rmtree(folder)

    def _submit(self, files: list[Path], caller: str) -> Job:
        priority = self.rules.priority_of(caller)
        if priority is None:
            raise InvalidRequest("Nothing is taken from this caller.", code="unknown_caller")
        job_id = secrets.token_hex(16)
        folder = self._files.create(job_id)
        try:
            fingerprint = _pack(files, folder / "scan")
            header = probe_scan(folder / "scan", self._settings.limits())
            self._files.seal(folder)
            # The same series again, of a sender that repeats itself or after a crash, is the same job.
            voxels = math.prod(header.shape)
            order = Order(job_id, priority, voxels, f"dicom-{fingerprint}", fingerprint, self._deliver_to)
            job, is_new = self._store.add(order)
            if is_new:
                self._files.release(job_id)
                self._bell.ring(job_id)
            return job
        finally:
            if not self._store.has(job_id):
                self._files.erase(job_id)


def main(settings: Settings) -> None:
    """`hepaseg dicom-node`, until SIGTERM or SIGINT. Raises InvalidRequest."""
    configure_logs(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Node(settings, Store.open(settings)).serve(stop)


def _pack(files: list[Path], path: Path) -> str:
    """Put the instances into one zip, piece by piece; gives its sha256."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, file in enumerate(files):
            with file.open("rb") as source, archive.open(zipfile.ZipInfo(f"{number:05}", _ZIP_TIME), "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    with path.open("rb") as whole:
        return hashlib.file_digest(whole, "sha256").hexdigest()


def _answer(status: int, code: str) -> Dataset:
    """A failure, with its code as the comment."""
    answer = Dataset()
    answer.Status, answer.ErrorComment = status, code
    return answer
