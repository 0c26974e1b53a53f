"""Bells tell workers that there is work. A ring may be lost or come twice: the database says what there is to do."""

from __future__ import annotations

import time
from typing import Any, Protocol

from app.errors import InvalidRequest
from app.jobs.logs import logger
from app.settings import Settings

#: The task that a ring is, and the queue it goes through.
TASK = "hepaseg.ring"
QUEUE = "hepaseg"
#: A ring nobody heard for this long is of no use: an idle worker has looked by itself.
_STALE_S = 600
#: After a ring that failed, none is tried for so long: callers shall not wait for a broker that is away.
_PAUSE_S = 5.0

_log = logger("bell")


class Bell(Protocol):
    """Something to ring."""

    def ring(self, job_id: str) -> None:
        """Tell a worker that a job waits; never raises."""


class NoBell:
    """For workers that look into the queue by themselves."""

    def ring(self, job_id: str) -> None:
        """Do nothing."""


class CeleryBell:
    """Rings through the broker of a Celery application."""

    def __init__(self, application: Any) -> None:  # noqa: ANN401 - Celery has no types
        self._application = application
        self._quiet_until = 0.0

    def ring(self, job_id: str) -> None:
        """Send the id; without a broker, workers look again after a while."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            self._application.send_task(TASK, (job_id,), queue=QUEUE, expires=_STALE_S, ignore_result=True, retry=False)
        except Exception as error:
            self._quiet_until = time.monotonic() + _PAUSE_S
            _log.warning("broker out of reach", error=type(error).__name__)


def bell_of(settings: Settings) -> Bell:
    """The bell that `settings` ask for. Raises InvalidRequest if its library is missing."""
    return CeleryBell(application_of(settings)) if settings.broker_url else NoBell()


def application_of(settings: Settings) -> Any:  # noqa: ANN401 - Celery has no types
    """Celery as a doorbell: rings are acknowledged before the work begins, and nothing is kept."""
    if not settings.broker_url.startswith(("redis://", "rediss://", "amqp://", "amqps://")):
        raise InvalidRequest("HEPASEG_BROKER_URL begins with redis://, rediss://, amqp:// or amqps://.")
    try:
        from celery import Celery
        from kombu.entity import Exchange, Queue
    except ModuleNotFoundError as error:
        raise InvalidRequest(f"A broker needs `pip install hepaseg[cluster]` ({error}).") from None
    application = Celery("hepaseg", broker=settings.broker_url, set_as_current=False)
    # Redis: a ring that cannot be acknowledged, for Redis has just gone away, is counted as one in hand for ever; the
    # worker then waits for no other and never finds out that the connection is dead. So none is acknowledged, and none
    # fetched before its time.
    is_redis = settings.broker_url.startswith("redis")
    application.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=2,
        broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 10, "max_retries": 0},
        task_acks_late=False,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_queues=[Queue(QUEUE, Exchange(QUEUE), QUEUE, no_ack=is_redis)],
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_disable_prefetch=is_redis,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
        # The child loads and checks the networks before it says that it is up.
        worker_proc_alive_timeout=600,
        worker_redirect_stdouts=False,
    )
    return application
