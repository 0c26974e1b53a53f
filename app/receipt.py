"""A receipt for every answer: what went in, what ran, what came out, as SHA-256 sums under one Ed25519 signature.

receipt.json holds `receipt`, the statements, and `signature` over their canonical form (JSON with sorted keys and
without spaces, UTF-8), or null where the service has no key. docs/answers.md says what it proves.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from app.errors import BrokenReceipt, InvalidRequest
from app.report import ModelReport, Task, Timings

NAME = "receipt.json"
CONTRACT: Final = "hepaseg-receipt/1"
#: What takes part in an answer, besides this project's own code.
LIBRARIES = (
    "connected-components-3d", "highdicom", "isal", "nibabel", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow",
    "pydicom", "scipy", "SimpleITK", "surface-distance",
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Software(_Strict):
    """What ran. `code_sha256` is that of all Python files of the service, whatever its version says."""

    hepaseg: str
    code_sha256: str
    python: str
    libraries: dict[str, str]
    machine: str


class Options(_Strict):
    """What may change an answer, as it was set, and what may not (threads, batch)."""

    provider: str
    precision: str
    crf_backend: str
    split_lesions: bool
    seg_kind: Literal["BINARY", "LABELMAP"]
    rtstruct: bool
    series_uid: str | None
    threads: int
    batch: int


class Receipt(_Strict):
    """The statements. scan, reference, networks and outputs are named by the SHA-256 of their bytes.

    `report_sha256` is that of report.json without its timings, which no second run has again. `prior` and its report
    are stated only where there was one: receipts from before there were any keep their signature.
    """

    contract: Literal["hepaseg-receipt/1"] = CONTRACT
    made_at: datetime
    scan: str
    reference: str | None
    prior: str | None = None
    prior_report: str | None = None
    networks: dict[Task, ModelReport]
    software: Software
    options: Options
    verdict: str
    findings: tuple[str, ...]
    timings_s: Timings
    outputs: dict[str, str]
    report_sha256: str

    @model_serializer(mode="wrap")
    def _without_what_was_not(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {name: value for name, value in written.items() if value is not None or not name.startswith("prior")}

    def canonical(self) -> bytes:
        """What is signed."""
        return _canonical(self.model_dump(mode="json"))


class Signature(_Strict):
    """Raw key and signature, base64."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    public_key: str
    value: str


class Signed(_Strict):
    """The content of receipt.json."""

    receipt: Receipt
    signature: Signature | None

    def key(self) -> Ed25519PublicKey | None:
        """The public key that made the signature; None without one. Raises BrokenReceipt if it does not fit."""
        if self.signature is None:
            return None
        encoded = (self.signature.public_key, self.signature.value)
        try:
            raw, value = (base64.b64decode(text, validate=True) for text in encoded)
            key = Ed25519PublicKey.from_public_bytes(raw)
            key.verify(value, self.receipt.canonical())
        except (ValueError, InvalidSignature) as error:
            raise BrokenReceipt("The signature does not fit the receipt: one of the two was changed.") from error
        return key


def signed(receipt: Receipt, key: Ed25519PrivateKey | None) -> Signed:
    """The receipt with its signature, or without one where there is no key."""
    if key is None:
        return Signed(receipt=receipt, signature=None)
    public, value = key.public_key().public_bytes_raw(), key.sign(receipt.canonical())
    encoded = [base64.b64encode(raw).decode() for raw in (public, value)]
    return Signed(receipt=receipt, signature=Signature(public_key=encoded[0], value=encoded[1]))


def read(folder: Path) -> Signed:
    """The receipt in a folder of results. Raises BrokenReceipt if there is none or it is not one."""
    path = folder / NAME
    try:
        return Signed.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BrokenReceipt(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise BrokenReceipt(f"{path} is no {CONTRACT}: {error.errors()[0]['msg']}.") from error


def changed_outputs(folder: Path, receipt: Receipt) -> dict[str, str]:
    """Of every output that is not as it was written: "missing" or "changed"."""
    found = sums(folder, receipt.outputs)
    others = [name for name, stated in receipt.outputs.items() if found.get(name) != stated]
    return {name: "changed" if name in found else "missing" for name in others}


def sums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each file that is there."""
    return {name: sha256_of(folder / name) for name in sorted(names) if (folder / name).is_file()}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sum_of(path: Path | None) -> str | None:
    """The same of a file that may not have been given; None without one."""
    return None if path is None else sha256_of(path)


def report_sha256(report: dict[str, Any]) -> str:
    """That of a report without its timings, in canonical form."""
    kept = {name: value for name, value in report.items() if name != "timings_s"}
    return hashlib.sha256(_canonical(kept)).hexdigest()


def _canonical(plain: dict[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def now() -> datetime:
    """The time of a receipt: UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


@cache
def software() -> Software:
    """What runs in this process."""
    app = Path(__file__).parent
    code = hashlib.sha256()
    for path in sorted(app.rglob("*.py")):
        code.update(f"{path.relative_to(app).as_posix()}\0".encode() + path.read_bytes())
    libraries = {name: found for name in LIBRARIES if (found := _version(name))}
    return Software(
        hepaseg=version("hepaseg"),
        code_sha256=code.hexdigest(),
        python=platform.python_version(),
        libraries=libraries,
        machine=platform.machine(),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key that a service signs with, from a PEM file. Raises InvalidRequest."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"HEPASEG_SIGNING_KEY: {path} is no readable private key in PEM ({error}).") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequest(f"HEPASEG_SIGNING_KEY: {path} is no Ed25519 key: openssl genpkey -algorithm ed25519.")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The key that a reader trusts, from a PEM file. Raises InvalidRequest."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"{path} is no readable public key in PEM ({error}).") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidRequest(f"{path} is no Ed25519 key.")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key: what two people compare on the telephone."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()
