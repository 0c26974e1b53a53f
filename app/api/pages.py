"""The browser's page and the files it is made of, under a policy that lets nothing in or out but this service."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response

from app.errors import NotFound

router = APIRouter(include_in_schema=False)

#: Nothing but files and answers of this very service; `data:` and `blob:` are textures and downloads made by the page.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_WEB = Path(__file__).resolve().parent.parent / "web"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class Asset:
    """A file of the page, as it is and compressed."""

    plain: bytes
    packed: bytes
    media_type: str
    etag: str
    cache: str

    @classmethod
    def read(cls, path: Path) -> Asset:
        """The file at `path`; what lies under vendor/ bears its version in its name and never changes."""
        plain = path.read_bytes()
        return cls(
            plain,
            gzip.compress(plain, 6, mtime=0),
            _MEDIA_TYPES[path.suffix],
            f'"{hashlib.sha256(plain).hexdigest()[:16]}"',
            "public, max-age=31536000, immutable" if "vendor" in path.parts else "no-cache",
        )

    def answer(self, accepted: str | None, known: str | None) -> Response:
        """The file for a client that takes these encodings and knows these tags."""
        headers = {
            "Cache-Control": self.cache,
            "Content-Security-Policy": POLICY,
            "ETag": self.etag,
            "Referrer-Policy": "no-referrer",
            "Vary": "Accept-Encoding",
        }
        if known is not None and self.etag in known:
            return Response(status_code=304, headers=headers)
        if "gzip" not in (accepted or ""):
            return Response(self.plain, media_type=self.media_type, headers=headers)
        return Response(self.packed, media_type=self.media_type, headers={**headers, "Content-Encoding": "gzip"})


def _read_all() -> dict[str, Asset]:
    files = (path for path in sorted(_WEB.rglob("*")) if path.suffix in _MEDIA_TYPES)
    return {path.relative_to(_WEB).as_posix(): Asset.read(path) for path in files}


# Read once, at the start: an address can then never become the path of another file.
_ASSETS = _read_all()


@router.get("/")
@router.get("/view/{job_id}")
def page(
    job_id: str = "",  # noqa: ARG001 - the page itself reads its address
    accept_encoding: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The page; which job it shows stands in its address."""
    return _ASSETS["index.html"].answer(accept_encoding, if_none_match)


@router.get("/web/{name:path}")
def asset(
    name: str,
    accept_encoding: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A script, style sheet or picture of the page. Raises NotFound."""
    found = _ASSETS.get(name)
    if found is None:
        raise NotFound("There is nothing at this address.")
    return found.answer(accept_encoding, if_none_match)
