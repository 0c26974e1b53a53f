"""What the routes work with, put together by `app.main` and handed to them by FastAPI."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from app.jobs.bell import Bell, bell_of
from app.jobs.registry import Registry
from app.jobs.results import JobFiles
from app.jobs.store import Store
from app.settings import Settings


@dataclass(frozen=True)
class Parts:
    """The parts of a running service."""

    settings: Settings
    store: Store
    files: JobFiles
    registry: Registry
    bell: Bell
    #: Set when the process is about to end: who waits for news is then to ask another one.
    closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, settings: Settings) -> Parts:
        """The parts on the data folder of `settings`."""
        store = Store.open(settings)
        return cls(settings, store, JobFiles.of(settings, lend=True), Registry(store, settings), bell_of(settings))


async def _parts(request: Request) -> Parts:
    parts = request.app.state.parts
    if not isinstance(parts, Parts):
        raise TypeError(parts)
    return parts


HasParts = Annotated[Parts, Depends(_parts)]
