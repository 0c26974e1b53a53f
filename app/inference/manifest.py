"""models/manifest.json → checked networks. The file says what it is, the manifest says which file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import BrokenModel
from app.inference.card import Sha256, Task
from app.inference.network import Network
from app.inference.session import Runtime

MANIFEST = "manifest.json"


class ManifestFile(BaseModel):
    """A file and its sha256. A plain file name cannot lead out of the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$")]
    sha256: Sha256


class ManifestEntry(ManifestFile):
    """Which file holds a network. int8: the same network in 8-bit integers, which is what a CPU runs."""

    int8: ManifestFile | None = None


class ManifestNetworks(BaseModel):
    """The three networks of a cascade."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    liver: ManifestEntry
    lesion: ManifestEntry
    crf: ManifestEntry


class Manifest(BaseModel):
    """models/manifest.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: Literal["hepaseg/1"]
    networks: ManifestNetworks


@dataclass(frozen=True)
class Networks:
    """The networks of one cascade, checked to belong together."""

    liver: Network
    lesion: Network
    crf: Network

    def __iter__(self) -> Iterator[Network]:
        """In the order in which they run; `card.task` tells which is which."""
        return iter((self.liver, self.lesion, self.crf))


def load_networks(models_dir: Path, runtime: Runtime) -> Networks:
    """The networks that the manifest in `models_dir` names, each checked and run once.

    Raises BrokenModel with the file, what was expected and what was found; NotReady if CUDA was asked for and
    not got.
    """
    manifest = read_manifest(models_dir / MANIFEST)
    entries = manifest.networks
    networks = Networks(
        liver=_load(models_dir, entries.liver, "liver", runtime),
        lesion=_load(models_dir, entries.lesion, "lesion", runtime),
        crf=_load(models_dir, entries.crf, "crf", runtime),
    )
    trained_with = networks.lesion.card.trained_with
    if trained_with != entries.liver.sha256:
        raise BrokenModel(
            f"{entries.lesion.file}: expected the liver network it was trained behind, {trained_with}, "
            f"found {entries.liver.file} with sha256 {entries.liver.sha256}."
        )
    return networks


def read_manifest(path: Path) -> Manifest:
    """The manifest, without looking at the files it names. Raises BrokenModel."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BrokenModel(f"{path}: expected a manifest of networks, found: {error.strerror}.") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BrokenModel(f"{path}: expected a manifest of networks, found faults in it: {faults}") from error


def _load(models_dir: Path, entry: ManifestEntry, task: Task, runtime: Runtime) -> Network:
    if entry.int8 is None or not runtime.in_8_bits:
        return _read(models_dir, entry, task, runtime)
    network = _read(models_dir, entry.int8, task, runtime)
    if network.card.int8_of != entry.sha256:
        raise BrokenModel(
            f"{entry.int8.file}: expected an 8-bit form of {entry.file} ({entry.sha256}), "
            f"found one of {network.card.int8_of}."
        )
    return network


def _read(models_dir: Path, entry: ManifestFile, task: Task, runtime: Runtime) -> Network:
    try:
        graph = (models_dir / entry.file).read_bytes()
    except OSError as error:
        raise BrokenModel(
            f"{entry.file}: expected the {task} network in {models_dir}, found: {error.strerror}."
        ) from error
    sha256 = hashlib.sha256(graph).hexdigest()
    if sha256 != entry.sha256:
        raise BrokenModel(f"{entry.file}: expected sha256 {entry.sha256}, found {sha256}.")
    return Network(graph, sha256, entry.file, task, runtime)
