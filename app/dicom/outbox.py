"""Sends results to the PACS until they are accepted: by C-STORE, or by STOW-RS. The table says what is to be sent.

Any number of outboxes may run, in `hepaseg dicom-node` and in `hepaseg serve`: a delivery is claimed before it is sent.
"""

from __future__ import annotations

import io
import socket
import threading

from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy.exc import SQLAlchemyError

from app.dicom.peers import NotDelivered, Peer
from app.dicom.web import DicomWeb
from app.errors import Gone, HepasegError
from app.imaging.dicom_header import silence, unheard
from app.jobs.deliveries import Deliveries, Destination
from app.jobs.logs import logger
from app.jobs.results import JobFiles
from app.jobs.store import Store
from app.settings import Settings

# It logs the UIDs of everything that it sends.
silence("pynetdicom")

_LOOK_EVERY_S = 0.5
_STUMBLED_S = 5.0
_CONNECT_S, _ANSWER_S = 10.0, 60.0

_log = logger("outbox")


class DicomPeer:
    """A peer that takes C-STORE: `address` is AE@host:port."""

    def __init__(self, address: str, own_title: str) -> None:
        self._title, _, place = address.partition("@")
        self._host, _, port = place.rpartition(":")
        self._port = int(port)
        self._own_title = own_title

    def send(self, content: bytes) -> None:
        """Store one file. Raises NotDelivered unless the peer answers that it has it."""
        try:
            socket.getaddrinfo(self._host, self._port)
        except OSError:  # among containers a host that is down has no name either; pynetdicom would not say so
            raise NotDelivered("unreachable") from None
        entity = AE(ae_title=self._own_title)
        entity.connection_timeout, entity.dimse_timeout, entity.network_timeout = _CONNECT_S, _ANSWER_S, _ANSWER_S
        with unheard():
            dataset = dcmread(io.BytesIO(content))
        # As it is, or implicit, which everybody takes; what is implicit may hold more than an explicit length can say.
        syntaxes = dict.fromkeys([dataset.file_meta.TransferSyntaxUID, ImplicitVRLittleEndian])
        entity.add_requested_context(dataset.SOPClassUID, list(syntaxes))
        association = entity.associate(self._host, self._port, ae_title=self._title)
        if not association.is_established:
            raise NotDelivered("rejected" if association.is_rejected else "unreachable")
        try:
            if not association.accepted_contexts:
                raise NotDelivered("sop_class_not_accepted")
            with unheard():
                status = association.send_c_store(dataset).get("Status")
        finally:
            association.release()
        # 0xBxxx is a warning: the peer has it.
        if status is None or not (status == 0 or status & 0xF000 == 0xB000):
            raise NotDelivered("no_answer" if status is None else f"refused_{status:04x}")


def peers_of(settings: Settings) -> dict[Destination, Peer]:
    """Where results can be sent to."""
    peers: dict[Destination, Peer] = {}
    if settings.dicom_destination:
        peers["dicom"] = DicomPeer(settings.dicom_destination, settings.dicom_ae)
    if settings.dicomweb_url:
        peers["dicomweb"] = DicomWeb(settings.dicomweb_url)
    return peers


class Outbox:
    """Sends what is due, one file after the other."""

    def __init__(self, settings: Settings, store: Store, files: JobFiles) -> None:
        self._peers = peers_of(settings)
        self._deliveries = Deliveries(store.engine, store.clock)
        self._files = files

    def start(self, stop: threading.Event) -> threading.Thread:
        """Send from a thread until told to stop."""
        thread = threading.Thread(target=self._loop, args=(stop,), name="outbox", daemon=True)
        thread.start()
        return thread

    def send_one(self) -> bool:
        """Send what is due first; False if nothing is."""
        claimed = self._deliveries.claim(list(self._peers))
        if claimed is None:
            return False
        delivery, published = claimed
        what = {"job": delivery.job_id, "file": delivery.name, "to": delivery.destination}
        try:
            content = self._files.result(delivery.job_id, published, delivery.name).read_bytes()
            self._peers[delivery.destination].send(content)
        except (Gone, FileNotFoundError):
            # Of an erased job the row is gone too; else the worker was not told to write what the taker planned.
            self._deliveries.refused(delivery, "not_written")
            _log.info("nothing to deliver", **what)
        except NotDelivered as error:
            pause_s = self._deliveries.refused(delivery, error.code)
            _log.warning("not delivered", **what, code=error.code, attempts=delivery.attempts, again_in_s=pause_s)
        else:
            self._deliveries.accepted(delivery)
            _log.info("delivered", **what, attempts=delivery.attempts)
        finally:
            self._files.release(delivery.job_id)
        return True

    def _loop(self, stop: threading.Event) -> None:
        while self._peers and not stop.is_set():
            try:
                pause_s = 0.0 if self.send_one() else _LOOK_EVERY_S
            except (SQLAlchemyError, HepasegError, OSError) as error:
                _log.warning("outbox stumbled", error=type(error).__name__)
                pause_s = _STUMBLED_S
            except Exception as error:
                # Not its message: what a library says of a file may name the patient.
                _log.error("outbox stumbled over a bug", error=type(error).__name__)
                pause_s = _STUMBLED_S
            stop.wait(pause_s)
