"""`hepaseg verify` and `hepaseg replay`: whether this is the answer that was given, and whether it comes out again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app import receipt as receipts
from app.errors import BrokenReceipt, InvalidRequest
from app.receipt import Receipt, Signed

if TYPE_CHECKING:
    from app.settings import Settings

#: DICOM objects carry new UIDs and the time: they are compared by the masks that they were made from.
NEVER_THE_SAME = ("seg.dcm", "sr.dcm", "rtstruct.dcm", "report.json", receipts.NAME)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Given:
    """The files that a receipt names by their sums."""

    scan: Path
    reference: Path | None = None
    prior: Path | None = None
    prior_report: Path | None = None


def verify(folder: Path, trusted: Path | None, say: Say) -> None:
    """Check a folder's receipt, its signature and every output. Raises BrokenReceipt with the first thing wrong.

    trusted: a public key in PEM that must have signed; without it the signer's fingerprint is said.
    """
    found = receipts.read(folder)
    say(_signer(found, trusted))
    changed = receipts.changed_outputs(folder, found.receipt)
    if changed:
        raise BrokenReceipt(f"Not as written: {', '.join(f'{name} ({how})' for name, how in changed.items())}.")
    say(f"{len(found.receipt.outputs)} outputs are as they were written at {found.receipt.made_at.isoformat()}.")


def _signer(found: Signed, trusted: Path | None) -> str:
    key = found.key()
    expected = None if trusted is None else receipts.public_key(trusted)
    if key is None:
        if expected is not None:
            raise BrokenReceipt("The receipt is not signed: whoever changed a result could have changed it too.")
        return "Not signed: who could change a result could change the receipt, too."
    if expected is None:
        return f"Signed by the key {receipts.fingerprint(key)}; give --key to have it compared with one you trust."
    if key.public_bytes_raw() != expected.public_bytes_raw():
        raise BrokenReceipt(f"Signed by another key than the one you trust: {receipts.fingerprint(key)}.")
    return f"Signed by the key you trust, {receipts.fingerprint(key)}."


def replay(folder: Path, given: Given, output: Path, settings: Settings, say: Say) -> None:
    """Run again what a receipt states, into `output`, and compare byte for byte.

    Raises InvalidRequest if a file or a network is not that of the receipt, BrokenReceipt if it comes out otherwise.
    """
    found = receipts.read(folder)
    found.key()
    was = found.receipt
    _require_same_files(was, given)
    now = _again(was, given, output, settings)
    if now.software != was.software:
        say(f"Other software than then: {_differences(was, now)}.")
    compared = [name for name in was.outputs if name not in NEVER_THE_SAME]
    others = [name for name in compared if now.outputs.get(name) != was.outputs[name]]
    if now.report_sha256 != was.report_sha256:
        others.append("report.json (timings apart)")
    if others:
        raise BrokenReceipt(f"Came out otherwise: {', '.join(others)}. What came out now lies in {output}.")
    say(f"The same bytes again: {', '.join(compared)}; report.json but for its timings.")


def _require_same_files(was: Receipt, given: Given) -> None:
    if receipts.sha256_of(given.scan) != was.scan:
        raise InvalidRequest(f"{given.scan} is not the scan of this receipt: another SHA-256.")
    if receipts.sum_of(given.reference) != was.reference:
        need = "was made without a reference" if was.reference is None else "needs its reference: --reference"
        raise InvalidRequest(f"This answer {need}.")
    if (receipts.sum_of(given.prior), receipts.sum_of(given.prior_report)) != (was.prior, was.prior_report):
        beside = " and the report.json beside them" if was.prior_report else ", the file alone"
        need = "was made without a prior" if was.prior is None else f"needs its prior's labels{beside}: --prior"
        raise InvalidRequest(f"This answer {need}.")


def _again(was: Receipt, given: Given, output: Path, settings: Settings) -> Receipt:
    from app.dicom.results import DicomForm
    from app.inference.cascade import Cascade
    from app.inference.manifest import load_networks
    from app.pipeline import Request, run

    options = was.options
    then = {"precision": options.precision, "crf_backend": options.crf_backend}
    runtime = settings.model_copy(update=then).runtime()
    networks = load_networks(settings.models_dir, runtime)
    loaded = {network.card.task: network.sha256 for network in networks}
    stated = {task: network.sha256 for task, network in was.networks.items()}
    if loaded != stated:
        others = ", ".join(
            f"{task} {was.networks[task].version}" for task in stated if loaded.get(task) != stated[task]
        )
        raise InvalidRequest(f"Other networks than in {settings.models_dir} gave this answer: {others}. Give --models.")
    form = DicomForm(options.seg_kind, options.rtstruct)
    request = Request(
        given.scan,
        given.reference,
        output,
        settings.limits(),
        options.series_uid,
        form,
        options.split_lesions,
        prior=given.prior,
        prior_report=given.prior_report,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    run(request, Cascade(networks, runtime))
    return receipts.read(output).receipt


def _differences(was: Receipt, now: Receipt) -> str:
    before, after = was.software.model_dump(), now.software.model_dump()
    before |= before.pop("libraries")
    after |= after.pop("libraries")
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {_short(before.get(name))} → {_short(after.get(name))}" for name in names)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12]
