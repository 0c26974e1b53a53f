"""One case of a test set: segmented, or its labels taken as they are; compared; its folder written. Done once, kept."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from app.agreement import Agreement, agree
from app.errors import Canceled, HepasegError, InputError, InvalidReference, NoLiver, NotCT
from app.evaluation.cases import Case
from app.imaging.atomic import write_text
from app.imaging.scan import read_labels, read_scan
from app.imaging.volume import Segmentation, Volume
from app.preview import write_differences
from app.scans import said_of
from app.sheet import write_sheet

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from app.inference.cascade import Cascade
    from app.pipeline import Progress
    from app.settings import Settings

#: What a case leaves in its folder; a case that was segmented also leaves the files of `hepaseg segment`.
SCORE_FILE, DIFFERENCES_FILE, SHEET_FILE = "score.json", "differences.png", "sheet.html"


class Score(BaseModel):
    """What became of a case.

    status: scored; no_answer, where the pipeline says that there is no liver or no CT: it is compared as empty labels;
    failed, where nothing can be compared. code, detail: why not. key: of all that the score depends on.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: Literal["scored", "no_answer", "failed"]
    code: str | None = None
    detail: str | None = None
    agreement: Agreement | None = None
    seconds: float
    key: str


@dataclass(frozen=True)
class Scorer:
    """What all cases share. cascade: None if the labels were made before. signer: of the receipts, if there is one."""

    folder: Path
    settings: Settings
    cascade: Cascade | None
    signer: Ed25519PrivateKey | None

    def known(self, case: Case) -> Score | None:
        """The score of a run before, of the same files, networks and settings; None if there is none, or it failed."""
        try:
            score = Score.model_validate_json((self.folder_of(case) / SCORE_FILE).read_bytes())
        except (OSError, ValidationError):
            return None
        return score if score.key == self._key(case) and score.status != "failed" else None

    def score(self, case: Case, on_progress: Progress = lambda _stage, _share: None) -> Score:
        """Score a case and keep it. What is wrong with the case, even a bug, is said in the score.

        Raises Canceled, and InvalidRequest or StorageFull if something cannot be written: of the next case neither.
        """
        folder, started = self.folder_of(case), time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        # Files are about to change: what was said of those before must not outlive a run that is ended.
        (folder / SCORE_FILE).unlink(missing_ok=True)
        try:
            found = self._attempt(case, folder, on_progress)
        except Canceled:
            raise
        except Exception as error:
            found = self._failure(error, case)
        score = Score(name=case.name, seconds=round(time.perf_counter() - started, 3), key=self._key(case), **found)
        write_text(folder / SCORE_FILE, score.model_dump_json(indent=1) + "\n")
        return score

    def folder_of(self, case: Case) -> Path:
        """Where the case's files are written."""
        return self.folder / "cases" / case.name

    def _failure(self, error: Exception, case: Case) -> dict[str, Any]:
        """What is said of a case that failed, even by a bug: one bad case must not end the night's run."""
        if isinstance(error, OSError) and error.errno is not None:
            error = said_of(error, (case.scan, case.reference, case.labels), self.folder_of(case))
            if error.code != "unreadable_file":
                raise error
        if isinstance(error, HepasegError):
            return {"status": "failed", "code": error.code, "detail": error.detail}
        return {"status": "failed", "code": "internal_error", "detail": "".join(traceback.format_exception(error))}

    def _attempt(self, case: Case, folder: Path, on_progress: Progress) -> dict[str, Any]:
        if case.reference is None:
            raise InvalidReference("There is no reference with the name of this scan.", code="no_reference")
        try:
            answer = self._segmented(case, folder, on_progress) if self.cascade else self._made_before(case)
        except (NoLiver, NotCT) as error:
            said = {"status": "no_answer", "code": error.code, "detail": error.detail}
            answer = self._empty(case)
        else:
            said = {"status": "scored"}
        reference = read_labels(case.reference, answer.volume.geometry)
        write_differences(folder / DIFFERENCES_FILE, answer.volume, answer.segmentation, reference)
        return {**said, "agreement": answer.agreement or agree(answer.segmentation, reference)}

    def _segmented(self, case: Case, folder: Path, on_progress: Progress) -> _Answer:
        """Run the pipeline as `hepaseg segment` does, and keep hold of what goes through it."""
        from app.evaluation.witness import Witness
        from app.pipeline import Request, run

        assert self.cascade is not None  # noqa: S101 - the caller looked
        settings, witness = self.settings, Witness(self.cascade)
        request = Request(
            case.scan,
            case.reference,
            folder,
            settings.limits(),
            split_lesions=settings.split_lesions,
            signing_key=self.signer,
        )
        report = run(request, witness, on_progress)
        write_sheet(folder)
        volume, segmentation = witness.seen
        return _Answer(volume, segmentation, report.agreement)

    def _made_before(self, case: Case) -> _Answer:
        if case.labels is None:
            raise InputError("There are no labels with the name of this scan.", code="no_result")
        volume = read_scan(case.scan, self.settings.limits()).volume
        try:
            labels = read_labels(case.labels, volume.geometry)
        except InvalidReference as error:
            raise InputError(f"The labels to evaluate: {error.detail}", code="invalid_result") from error
        return _Answer(volume, replace(labels, split_lesions=self.settings.split_lesions), None)

    def _empty(self, case: Case) -> _Answer:
        volume = read_scan(case.scan, self.settings.limits()).volume
        nothing = np.zeros(volume.voxels.shape, np.uint8, order="F")
        return _Answer(volume, Segmentation(nothing, volume.geometry, None, self.settings.split_lesions), None)

    def _key(self, case: Case) -> str:
        """Changes with any file of the case (its size or time), networks, settings that change results, version."""
        files = [_state(path) for path in (case.scan, case.reference, case.labels)]
        networks = [] if self.cascade is None else [network.sha256 for network in self.cascade.networks]
        settings = self.settings.crf_backend, self.settings.split_lesions
        return hashlib.sha256(json.dumps([files, networks, settings, version("hepaseg")]).encode()).hexdigest()


class _Answer(NamedTuple):
    volume: Volume
    segmentation: Segmentation
    agreement: Agreement | None


def _state(path: Path | None) -> list[str | int] | None:
    if path is None or not path.exists():
        return None
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns]
