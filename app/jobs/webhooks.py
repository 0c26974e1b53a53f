"""Webhooks: tell an address, once a job has ended, that it has; signed, tried again, and only to hosts on a list.

    POST <address>                     {"id": "…", "status": "succeeded", "completed_at": "…"}
    Hepaseg-Signature: t=<seconds since 1970>,v1=<hex of HMAC-SHA256(secret, "<t>." + body)>

The row is made with the job, in its transaction, so that no crash can lose the call; it may come twice.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app.errors import InvalidRequest
from app.jobs.database import writing
from app.jobs.job import FINISHED, utc_now
from app.jobs.logs import logger
from app.jobs.tables import jobs, webhooks
from app.settings import Settings

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 3600.0
#: An address that has not answered for so long after the end of the job is given up.
_GIVE_UP_AFTER = timedelta(days=3)
#: After this time a call whose process died is taken up again.
_CALLING_S = 60.0
_ANSWER_S = 10.0
_LOOK_EVERY_S = 0.5
_STUMBLED_S = 5.0

_log = logger("webhooks")


@dataclass(frozen=True)
class Call:
    """What is to be told, and where."""

    job_id: str
    url: str
    attempts: int
    status: str
    completed_at: datetime

    def body(self) -> bytes:
        """The JSON that is sent."""
        told = {"id": self.job_id, "status": self.status, "completed_at": self.completed_at.isoformat()}
        return json.dumps(told).encode()


def check_address(url: str, settings: Settings) -> str:
    """The address, if it may be called: https (http on loopback only) and a host on the list. Raises InvalidRequest."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidRequest("`Hepaseg-Webhook` is not an address.") from None
    allowed = {name.strip().lower() for name in settings.webhook_hosts.split(",")} - {""}
    if not ({host, f"{host}:{port}"} & allowed):
        raise InvalidRequest("`Hepaseg-Webhook` names a host that is not in HEPASEG_WEBHOOK_HOSTS.")
    secure = parts.scheme == "https" or (parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1"))
    if not secure or parts.username is not None or not url.isascii() or not url.isprintable():
        raise InvalidRequest("`Hepaseg-Webhook` is an https address without user and password.")
    return url


def signature(secret: str, at: datetime, body: bytes) -> str:
    """What a receiver computes again to see that the call is ours and fresh."""
    second = int(at.timestamp())
    digest = hmac.new(secret.encode(), f"{second}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={second},v1={digest}"


def plan_call(connection: Connection, job_id: str, url: str | None, now: datetime) -> None:
    """Have the end of a job told."""
    if url is not None:
        connection.execute(sa.insert(webhooks).values(job_id=job_id, url=url, attempts=0, due_at=now))


def forget_call(connection: Connection, job_id: str) -> None:
    """Tell nobody, and keep no address."""
    connection.execute(sa.delete(webhooks).where(webhooks.c.job_id == job_id))


class Messenger:
    """Calls what is due; any number may run on one database. `clock` gives aware times."""

    def __init__(self, engine: sa.Engine, settings: Settings, clock: Callable[[], datetime] = utc_now) -> None:
        if not settings.webhook_secret:
            raise InvalidRequest("HEPASEG_WEBHOOK_HOSTS needs HEPASEG_WEBHOOK_SECRET, which the calls are signed with.")
        self._engine = engine
        self._settings = settings
        self._clock = clock

    def start(self, stop: threading.Event) -> None:
        """Call in a thread of its own until `stop`."""
        threading.Thread(target=self._loop, args=(stop,), name="webhooks", daemon=True).start()

    def call_next(self) -> bool:
        """Make the call that is due first; False if there is none."""
        call = self._claim()
        if call is None:
            return False
        why = self._post(call)
        mine = webhooks.c.job_id == call.job_id
        now = self._clock()
        with writing(self._engine) as connection:
            if why is None or now > call.completed_at + _GIVE_UP_AFTER:
                connection.execute(sa.delete(webhooks).where(mine))
            else:
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(20, call.attempts - 1))
                later = now + timedelta(seconds=pause_s)
                connection.execute(sa.update(webhooks).where(mine).values(due_at=later))
        # Neither the address nor what it answered: both are somebody else's.
        _log.info("webhook", job=call.job_id, attempts=call.attempts, error=why)
        return True

    def _loop(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                if not self.call_next():
                    stop.wait(_LOOK_EVERY_S)
            except Exception:
                _log.exception("webhooks stumbled")
                stop.wait(_STUMBLED_S)

    def _claim(self) -> Call | None:
        now = self._clock()
        due = (
            sa.select(webhooks.c.job_id, webhooks.c.url, webhooks.c.attempts, jobs.c.status, jobs.c.completed_at)
            .join(jobs, jobs.c.id == webhooks.c.job_id)
            .where(webhooks.c.due_at <= now, jobs.c.status.in_(FINISHED))
            .order_by(webhooks.c.due_at, webhooks.c.job_id)
            .limit(1)
        )
        with self._engine.connect() as connection:
            if connection.execute(due).first() is None:
                return None
        with writing(self._engine) as connection:
            row = connection.execute(due.with_for_update(skip_locked=True, of=webhooks)).mappings().first()
            if row is None:
                return None
            call = Call(**{**row, "attempts": row["attempts"] + 1})
            taken = {"attempts": call.attempts, "due_at": now + timedelta(seconds=_CALLING_S)}
            connection.execute(sa.update(webhooks).where(webhooks.c.job_id == call.job_id).values(**taken))
            return call

    def _post(self, call: Call) -> str | None:
        import httpx2 as httpx

        body = call.body()
        headers = {
            "Content-Type": "application/json",
            "Hepaseg-Signature": signature(self._settings.webhook_secret, self._clock(), body),
        }
        try:
            check_address(call.url, self._settings)  # the list may be another one by now
            with httpx.Client(timeout=_ANSWER_S, follow_redirects=False, trust_env=False) as client:
                answer = client.post(call.url, content=body, headers=headers)
        except (httpx.HTTPError, InvalidRequest) as error:
            return type(error).__name__
        return None if answer.is_success else f"status {answer.status_code}"
