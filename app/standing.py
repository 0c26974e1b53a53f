"""Whether the answer of a run before still stands: its receipt says of what and by what it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from app import receipt as receipts
from app.errors import BrokenReceipt
from app.pipeline import Request, identities, options_of
from app.receipt import Options, Receipt, Software
from app.report import ModelReport, Report, Task

if TYPE_CHECKING:
    from app.inference.cascade import Cascade


def standing(request: Request, cascade: Cascade) -> Report | None:
    """The report in the request's folder if the same would come out again, else None.

    Files count by their SHA-256, and with them networks, software and the options that may change an answer. Every
    output must be as it was written, and the receipt signed by the request's key, if there is one.
    """
    try:
        found = receipts.read(request.output)
        signer = found.key()
        wanted = None if request.signing_key is None else request.signing_key.public_key()
        if wanted is not None and (signer is None or signer.public_bytes_raw() != wanted.public_bytes_raw()):
            return None
        if _then(found.receipt) != _now(request, cascade) or receipts.changed_outputs(request.output, found.receipt):
            return None
        return Report.model_validate_json((request.output / "report.json").read_bytes())
    except (BrokenReceipt, OSError, ValidationError):
        return None


class _Origin(NamedTuple):
    """All that an answer follows from."""

    files: tuple[str | None, ...]
    networks: dict[Task, ModelReport]
    software: Software
    options: Options


def _then(was: Receipt) -> _Origin:
    files = (was.scan, was.reference, was.prior, was.prior_report)
    return _Origin(files, was.networks, was.software, _without_speed(was.options))


def _now(request: Request, cascade: Cascade) -> _Origin:
    given = (request.scan, request.reference, request.prior, request.prior_report)
    options = _without_speed(options_of(request, cascade.runtime))
    return _Origin(tuple(map(receipts.sum_of, given)), identities(cascade.networks), receipts.software(), options)


def _without_speed(options: Options) -> Options:
    return options.model_copy(update={"threads": 0, "batch": 0})
