"""The part of MONAI Label's interface that its plug-ins for 3D Slicer and OHIF ask for a segmentation with.

A session is a job: its segmentation begins when the image arrives, and `/infer/{model}` waits for it. The routes stand
outside the documented interface, for their shape is another project's; docs/viewer.md says how to use them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.datastructures import FormData, UploadFile

from app.api.parts import HasParts, Parts
from app.api.problems import MEDIA_TYPE, Malformed, problem_of
from app.api.segment import admit, take_in
from app.api.upload import Upload
from app.errors import Conflict, InvalidRequest, NotFound, NotReady
from app.imaging.header import read_header
from app.imaging.nifti import read_label_values
from app.imaging.nrrd import encode_labels
from app.imaging.stream import open_stream
from app.imaging.volume import Label, Segmentation
from app.jobs.job import FINISHED, Job, Priority

router = APIRouter(include_in_schema=False)

MODEL = "liver-and-lesions"
LABELS = {"liver": int(Label.LIVER), "lesion": int(Label.LESION)}
_LOOK_EVERY_S = 0.2
_COPY_BYTES = 1024 * 1024


@router.get("/auth/")
def auth() -> dict[str, bool]:
    """The 3D Slicer plug-in asks this first."""
    return {"enabled": False}


@router.get("/info/")
def info(parts: HasParts) -> dict[str, Any]:
    """What there is to choose from: one model that takes no prompt. Raises NotReady."""
    cards = parts.registry.models()
    if cards is None:
        raise NotReady(parts.registry.broken() or "The networks are not loaded yet.")
    said = ", ".join(f"{card['name']} {card['version']}" for card in cards.values())
    model = {
        "type": "segmentation",
        "dimension": 3,
        "labels": LABELS,
        "description": f"Liver and liver lesions in an abdominal CT ({said}). Research use only.",
        "config": {},
    }
    return {
        "name": "Hepaseg",
        "description": "Liver and liver lesions. Research use only; not a medical device.",
        "version": version("hepaseg"),
        "labels": ["background", *LABELS],
        "models": {MODEL: model},
        "trainers": {},
        "strategies": {},
        "scoring": {},
        "train_stats": {},
        "datastore": {"total": 0, "completed": 0},
    }


async def _form(request: Request, parts: HasParts) -> AsyncIterator[FormData]:
    """The multipart form, once it is clear that a scan of the announced size could be taken."""
    if not request.headers.get("content-length", "").isdigit():
        raise Malformed("Send the length of the body as Content-Length.")
    await run_in_threadpool(admit, request, parts)
    async with request.form(max_files=4, max_fields=16) as form:
        yield form


HasForm = Annotated[FormData, Depends(_form)]


@router.put("/session/")
async def create_session(parts: HasParts, form: HasForm) -> dict[str, Any]:
    """Take an image in and begin to segment it."""
    job = await _queue(parts, form.get("files"))
    return {"session_id": job.id, "session_info": _session(job)}


@router.get("/session/{session_id}")
def get_session(parts: HasParts, session_id: str) -> dict[str, Any]:
    """Whether the image is still here. Raises NotFound, Gone."""
    return _session(parts.store.get_alive(session_id))


@router.delete("/session/{session_id}")
def remove_session(parts: HasParts, session_id: str) -> dict[str, Any]:
    """Erase image and result. Raises NotFound."""
    job = parts.store.erase(session_id)
    parts.files.erase(session_id)
    return _session(job)


@dataclass(frozen=True)
class Question:
    """What a plug-in asks for: the labels of an image, which a session or a job has or which is sent along."""

    model: str
    image: Annotated[str, Query(max_length=300)] = ""
    session_id: Annotated[str, Query(max_length=300)] = ""
    output: Annotated[Literal["all", "image", "json"], Query()] = "all"


@router.post("/infer/{model}")
async def infer(request: Request, parts: HasParts, asked: Annotated[Question, Depends()], form: HasForm) -> Response:
    """Wait for the labels of an image. Raises NotFound, Gone, InvalidRequest, Conflict."""
    if asked.model != MODEL:
        raise NotFound(f"There is no model of this name; there is {MODEL}.")
    wanted = _parameters(form.get("params"))
    if "file" in form and not asked.session_id:
        job = await _queue(parts, form["file"])
    else:
        job = await run_in_threadpool(_known, parts, asked.session_id or asked.image)
    while job.status not in FINISHED and not await request.is_disconnected():
        await asyncio.sleep(_LOOK_EVERY_S)
        job = await run_in_threadpool(parts.store.get_alive, job.id)
    if job.error is not None:
        problem = problem_of(job.error, f"/jobs/{job.id}")
        return JSONResponse(problem.model_dump(), problem.status, media_type=MEDIA_TYPE)
    if job.published is None:
        raise Conflict(f"There are no labels: the job is {job.status}.")
    return await run_in_threadpool(_answer, parts, job, wanted, asked.output)


def _session(job: Job) -> dict[str, Any]:
    return {"name": job.id, "image": job.id, "status": job.status}


def _known(parts: Parts, name: str) -> Job:
    if not parts.store.has(name):
        raise NotFound("This service keeps no image by that name: begin a session, or send the image as `file`.")
    return parts.store.get_alive(name)


async def _queue(parts: Parts, sent: UploadFile | str | None) -> Job:
    if not isinstance(sent, UploadFile):
        raise Malformed("The form holds no image.")

    async def bring(folder: Path) -> Upload:
        return await run_in_threadpool(_copy, sent, folder / "scan")

    return await take_in(parts, bring)


def _copy(sent: UploadFile, path: Path) -> Upload:
    with path.open("xb") as file:
        shutil.copyfileobj(sent.file, file, _COPY_BYTES)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Upload(Priority.ROUTINE, has_reference=False, fingerprint=digest)


def _parameters(text: UploadFile | str | None) -> dict[str, Any]:
    try:
        read = json.loads(text) if isinstance(text, str) and text else {}
    except ValueError:
        raise InvalidRequest("`params` is not JSON.") from None
    if not isinstance(read, dict):
        raise InvalidRequest("`params` is not a JSON object.")
    return read


def _answer(parts: Parts, job: Job, wanted: dict[str, Any], output: str) -> Response:
    """Labels and what they mean: as a multipart form, or one of both alone."""
    path = parts.files.result(job.id, job.published or 0, "labels.nii.gz")
    segmentation = _read(path)
    told = {"label_names": LABELS, "centroids": _centroids(segmentation), "job": job.id}
    if output == "json":
        return JSONResponse(told)
    name, content = f"{job.id}.nii.gz", path.read_bytes()
    if wanted.get("result_extension") == ".nrrd":
        wide = wanted.get("result_dtype") == "uint16"
        packed = wanted.get("result_compress") is not False
        name, content = f"{job.id}.nrrd", encode_labels(segmentation, "uint16" if wide else "uint8", packed=packed)
    if output == "image":
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/octet-stream", headers=headers)
    return _multipart(json.dumps(told), name, content)


def _multipart(told: str, name: str, content: bytes) -> Response:
    # Written just so: OHIF's plug-in looks for these very lines.
    boundary = secrets.token_hex(16)
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n'
        f"Content-Type: application/json\r\n\r\n{told}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    whole = body.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return Response(whole, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})


def _read(path: Path) -> Segmentation:
    with open_stream(path) as stream:
        header = read_header(stream)
        return Segmentation(read_label_values(stream, header), header.geometry)


def _centroids(segmentation: Segmentation) -> dict[str, list[int]]:
    """Of each label: its number and the voxel in its middle."""
    found = {}
    for name, number in LABELS.items():
        voxels = np.argwhere(segmentation.labels == number)
        if len(voxels):
            found[name] = [number, *(int(x) for x in voxels.mean(axis=0).round())]
    return found
