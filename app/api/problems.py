"""Errors over HTTP: the only place where an error meets a status code.

Every error, whoever noticed it, is one RFC 9457 `application/problem+json` with a stable `code`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app import errors
from app.jobs.job import INTERNAL_ERROR, Failure
from app.jobs.logs import logger
from app.jobs.store import TOO_MANY_ATTEMPTS

_log = logger("api")

MEDIA_TYPE = "application/problem+json"


class Malformed(errors.InvalidRequest):
    """The body is not the multipart form that it claims to be, or a part of it is missing."""

    code = "malformed_request"
    title = "The request cannot be read"


#: The status of each error; an error that is not listed has that of its nearest ancestor.
STATUS: dict[type[errors.HepasegError], int] = {
    errors.HepasegError: 500,
    Malformed: 400,
    errors.InputError: 422,
    errors.UnsupportedFormat: 415,
    errors.TooLarge: 413,
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.Overloaded: 429,
    errors.StorageFull: 507,
    errors.PeerFailed: 502,
    errors.NotReady: 503,
    errors.BrokenModel: 503,
}


class Problem(BaseModel):
    """What went wrong: `code` for programs, `detail` for people."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:hepaseg:problem:no_liver",
                "title": "No liver found",
                "status": 422,
                "detail": "No liver was found in this scan.",
                "instance": "/jobs/0f8c5b2e6d3a4f7190b1c2d3e4f5a6b7",
                "code": "no_liver",
            }
        }
    )

    type: str = Field(description="urn:hepaseg:problem: and the code")
    title: str
    status: int
    detail: str
    instance: str = Field(description="path of the request, or of the job that failed")
    code: str


def problem_of(failure: Failure, instance: str) -> Problem:
    """Why a job failed, in the shape of every other error.

    A code that one occurrence narrowed (`constant_image` of a NotCT) is not listed: all of those are about the input.
    """
    if failure.code in (INTERNAL_ERROR.code, TOO_MANY_ATTEMPTS.code):
        return _problem(500, failure, instance)
    return _problem(_status_of_code().get(failure.code, 422), failure, instance)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these error statuses, for a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Give every error of `app` the one shape."""
    app.add_exception_handler(errors.HepasegError, _on_our_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(OperationalError, _on_database)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)


def _on_our_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, errors.HepasegError):
        raise TypeError(error)
    status = _status_of(type(error))
    headers = {}
    if isinstance(error, errors.Overloaded):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.NotReady):
        headers["Retry-After"] = "5"
    return _response(request, status, Failure.of(error), headers)


def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError(error)
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    details = {404: "There is nothing at this address.", 405: f"This address does not take {request.method}."}
    failure = Failure(code=code, title=phrase, detail=details.get(error.status_code, f"{phrase}."))
    return _response(request, error.status_code, failure, dict(error.headers or {}))


def _on_invalid_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise TypeError(error)
    # What was sent is not repeated: it may hold what does not belong into logs.
    said = [f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}" for found in error.errors()]
    return _on_our_error(request, errors.InvalidRequest("; ".join(said)))


def _on_database(request: Request, error: Exception) -> Response:
    _log.error("database out of reach", exc_info=error)
    if "full" in str(getattr(error, "orig", "")):
        return _on_our_error(request, errors.StorageFull("There is no room left for another job."))
    return _on_our_error(request, errors.NotReady("The database does not answer; try again in a moment."))


def _on_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001 - nobody is there to be told why
    return _on_our_error(request, Malformed("The connection closed before the body was complete."))


def _on_bug(request: Request, error: Exception) -> Response:
    _log.error("internal error", exc_info=error)
    return _response(request, 500, INTERNAL_ERROR)


def _response(request: Request, status: int, failure: Failure, headers: dict[str, str] | None = None) -> Response:
    problem = _problem(status, failure, request.url.path)
    return JSONResponse(problem.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)


def _problem(status: int, failure: Failure, instance: str) -> Problem:
    kind = f"urn:hepaseg:problem:{failure.code}"
    return Problem(
        type=kind,
        title=failure.title,
        status=status,
        detail=failure.detail,
        instance=instance,
        code=failure.code,
    )


def _status_of(kind: type[errors.HepasegError]) -> int:
    return next(STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS)


def _status_of_code() -> dict[str, int]:
    found: dict[str, int] = {}
    kinds: list[type[errors.HepasegError]] = [errors.HepasegError]
    while kinds:
        kind = kinds.pop()
        found[kind.code] = _status_of(kind)
        kinds.extend(kind.__subclasses__())
    return found
