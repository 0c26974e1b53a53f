"""The one place where the service is put together."""

from __future__ import annotations

import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import documents, health, jobs, monai_label, pages, problems, segment
from app.api.parts import Parts
from app.errors import BrokenModel
from app.jobs.logs import configure_logs, logger
from app.jobs.supervisor import EmbeddedWorker
from app.jobs.webhooks import Messenger
from app.settings import Settings

_log = logger("http")
#: Routes that probes call every few seconds.
_ASKED_ALL_THE_TIME = ("/health/live", "/health/ready", "/metrics")

_DESCRIPTION = """Liver and liver lesions out of an abdominal CT. Research use only; not a medical device.

Errors are RFC 9457 problems with a stable `code`; docs/http.md lists them."""


def create_app(settings: Settings, parts: Parts | None = None) -> FastAPI:
    """The HTTP application on the data folder of `settings`; it computes nothing itself, see `app.jobs.worker`."""
    app = FastAPIOffline(title="Hepaseg", version=version("hepaseg"), description=_DESCRIPTION)
    app.state.parts = parts or Parts.open(settings)
    problems.install(app)
    for router in (segment.router, jobs.router, documents.router, health.router, pages.router, monai_label.router):
        app.include_router(router)
    app.add_middleware(AccessLog)
    app.openapi = lambda: _documentation(app)  # type: ignore[method-assign]
    return app


def _documentation(app: FastAPI) -> dict[str, Any]:
    """OpenAPI with the schema of the report; what measures is loaded only if somebody asks for it."""
    if app.openapi_schema is None:
        from app.report import Report

        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        report = Report.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        schemas = document["components"]["schemas"]
        schemas |= {**report.pop("$defs"), "Report": report}
        link = {"$ref": "#/components/schemas/Report"}
        schemas["JobBody"]["properties"]["report"] = {"anyOf": [link, {"type": "null"}]}
        answer = document["paths"]["/jobs/{job_id}/report.json"]["get"]["responses"]["200"]
        answer["content"]["application/json"]["schema"] = link
        app.openapi_schema = document
    return app.openapi_schema


def serve(
    settings: Settings,
    worker_command: Sequence[str] | None = None,
    on_listening: Callable[[str], object] | None = None,
) -> None:
    """`hepaseg serve`: HTTP and the embedded worker, until SIGTERM or SIGINT. Raises BrokenModel.

    worker_command: what is started as the worker, with the id of this process as its last argument.
    on_listening: called with the page's address, in a thread of its own, once it answers.
    """
    configure_logs(settings.log_level)
    parts = Parts.open(settings)
    config = uvicorn.Config(
        create_app(settings, parts),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=math.ceil(settings.stop_s),
    )
    server = _Server(config, parts.closing, on_listening)

    def give_up() -> None:
        server.should_exit = True

    # Uvicorn raises the signal again once it has stopped; the worker is still to be stopped then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    stop_outbox = threading.Event()
    if settings.dicomweb_url:
        # Only where it is used: what speaks DICOM is large.
        from app.dicom.outbox import Outbox

        Outbox(settings, parts.store, parts.files).start(stop_outbox)
    if settings.webhook_hosts:
        Messenger(parts.store.engine, settings).start(stop_outbox)
    worker = EmbeddedWorker(settings, give_up, worker_command)
    if settings.embedded_worker:
        worker.start()
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        stop_outbox.set()
        worker.stop()
    if worker.broken:
        raise BrokenModel(parts.registry.broken() or "The networks cannot be used; the log says why.")


class _Server(uvicorn.Server):
    """Uvicorn that says when it listens, and where, and when it is `closing`."""

    def __init__(
        self, config: uvicorn.Config, closing: threading.Event, on_listening: Callable[[str], object] | None
    ) -> None:
        super().__init__(config)
        self._closing = closing
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self._on_listening is None or not self.started:
            return
        # The port that was taken, if any was to be; every address of the machine is reached as this one too.
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        threading.Thread(target=self._on_listening, args=(f"http://{host}:{port}/",), daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in to the end what is being sent; whoever only waits is sent away."""
        self._closing.set()
        await super().shutdown(sockets)


class AccessLog:
    """Logs each request by its route, not by its address: an address is what somebody else chose to write."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and log what was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            seconds = round(time.monotonic() - started, 4)
            route = getattr(scope.get("route"), "path", None)
            log = _log.debug if route in _ASKED_ALL_THE_TIME else _log.info
            log("request", method=scope["method"], route=route, status=status, seconds=seconds)
