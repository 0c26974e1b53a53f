"""Whether the service lives, whether it can work, with which networks, and how busy it is."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.api.parts import HasParts
from app.api.problems import responses
from app.errors import NotReady
from app.jobs.waiting import counts, oldest_waiting_s

router = APIRouter(tags=["service"])


class Live(BaseModel):
    """The process answers."""

    status: Literal["live"] = "live"


class Ready(BaseModel):
    """At least one worker holds checked networks."""

    status: Literal["ready"] = "ready"
    workers: int


@router.get("/health/live")
async def live() -> Live:
    """Whether the process answers; touches nothing else."""
    return Live()


@router.get("/health/ready", responses=responses(503))
def ready(parts: HasParts) -> Ready:
    """Whether a job would be worked on now: a worker lives and its networks are checked."""
    workers = parts.registry.ready()
    if not workers:
        raise NotReady(parts.registry.broken() or "No worker is ready; one may be loading its networks.")
    return Ready(workers=len(workers))


@router.get("/models", responses=responses(503))
def models(parts: HasParts) -> dict[str, Any]:
    """The cards of the networks in use, by task: liver, lesion, crf."""
    found = parts.registry.models()
    if found is None:
        raise NotReady(parts.registry.broken() or "The networks are not loaded yet.")
    return found


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(parts: HasParts) -> Response:
    """Counts for Prometheus."""
    lines = ["# HELP hepaseg_jobs Jobs in the database.", "# TYPE hepaseg_jobs gauge"]
    lines += [f'hepaseg_jobs{{status="{status}"}} {count}' for status, count in counts(parts.store).items()]
    lines += ["# HELP hepaseg_oldest_waiting_seconds Age of the longest waiting job."]
    lines += ["# TYPE hepaseg_oldest_waiting_seconds gauge"]
    lines += [f"hepaseg_oldest_waiting_seconds {oldest_waiting_s(parts.store):.3f}"]
    lines += ["# HELP hepaseg_workers_ready Workers that would take a job now."]
    lines += ["# TYPE hepaseg_workers_ready gauge", f"hepaseg_workers_ready {len(parts.registry.ready())}"]
    return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
